"""`batchinfer up`: embedded Postgres and Valkey, and the processes of one machine."""

from __future__ import annotations
