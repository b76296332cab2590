"""The pipeline under faults: processes killed, stopped and frozen, brokers lost, files rotated; and the oracle."""
