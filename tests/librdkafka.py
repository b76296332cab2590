"""Writes a record that the Python client refuses to write: through the C library that it brings with it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

_PRODUCER = 0
_TOPIC, _PARTITION, _VALUE, _FLAGS, _HEADERS, _END = 1, 3, 4, 7, 10, 0  # tags of rd_kafka_producev
_COPY = 2


def send_header(address: str, topic: str, name: bytes, value: bytes) -> None:
    """Write one record to partition 0 with a header of that name, and wait until the broker has it."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    for call in ("conf_new", "new", "headers_new"):
        getattr(library, f"rd_kafka_{call}").restype = ctypes.c_void_p
    fault = ctypes.create_string_buffer(512)
    size = ctypes.c_size_t(len(fault))
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert library.rd_kafka_conf_set(conf, b"bootstrap.servers", address.encode(), fault, size) == 0, fault.value
    client = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, conf, fault, size))
    assert client.value, fault.value
    headers = ctypes.c_void_p(library.rd_kafka_headers_new(ctypes.c_size_t(1)))
    assert library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(-1), b"", ctypes.c_ssize_t(0)) == 0
    told = (
        *(_TOPIC, topic.encode(), _PARTITION, ctypes.c_int32(0)),
        *(_VALUE, value, ctypes.c_size_t(len(value)), _FLAGS, _COPY, _HEADERS, headers, _END),
    )
    assert library.rd_kafka_producev(client, *told) == 0
    assert library.rd_kafka_flush(client, 60000) == 0
    library.rd_kafka_destroy(client)
