"""Disasters on real servers, and the way back out of each as docs/recovery.md says it."""
