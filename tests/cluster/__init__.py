"""A real control plane of Kubernetes on loopback, with fake nodes, for `make cluster-test`."""
