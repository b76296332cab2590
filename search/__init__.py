"""From what a user asks to documents found and shown: query, times, selection, output."""
