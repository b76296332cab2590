"""mailspan answers one question: what happened to this mail.

The core of the mail tracer: it turns raw mail log lines into records and describes transactions and documents.
Everything below the command line is pure: no clock, no I/O, no Kafka, no Elasticsearch.
"""

__version__ = "0.1.0"
