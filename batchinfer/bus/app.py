"""The Celery application and its settings. It always names its broker: without one it would look for RabbitMQ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Queue
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchinfer.domain.jobs import JobClass

if TYPE_CHECKING:
    from batchinfer.settings import Settings

#: Work of CPU workers, of every kind and model.
CPU_QUEUE_NAME = "cpu"
CPU_QUEUE = Queue(CPU_QUEUE_NAME, routing_key=CPU_QUEUE_NAME)
#: Tasks by which ids are announced; their one argument is a list of ids, 32 hexadecimal digits each.
INFER_TASK, PREPARE_TASK = "batchinfer.infer", "batchinfer.prepare"

_SOCKET_TIMEOUT_S = 5
_CONNECT_TIMEOUT_S = 2
#: Longest wait of a request for Redis; nothing that a request needs is there.
REQUEST_TIMEOUT_S = 0.5
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


def make_celery(settings: Settings, name: str = "batchinfer") -> Celery:
    """A Celery application with our settings; nothing connects yet. Raises SettingsError where Redis is not named."""
    app = Celery(name, broker=settings.require_redis_url(), set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


def celery_settings(settings: Settings) -> dict[str, Any]:
    """JSON only, no results, no queue that nobody declared; a message is acknowledged when it arrives."""
    return {
        "broker_url": settings.require_redis_url(),
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "worker_enable_remote_control": True,
        "broker_connection_timeout": _CONNECT_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_publish_retry": False,
        "task_create_missing_queues": False,
        "task_queues": [CPU_QUEUE],
        "task_default_queue": CPU_QUEUE_NAME,
        "broker_transport_options": {
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
        },
        "timezone": "UTC",
        "enable_utc": True,
    }


def queue_name(model: str, job_class: JobClass) -> str:
    """`infer.<model>.<class>`; a character of a model's name that tools would misread becomes an underscore."""
    return f"infer.{_PLAIN.sub('_', model)}.{job_class.value}"


#: How the names of queues end that announce interactive work.
URGENT_QUEUE = f".{JobClass.INTERACTIVE.value}"


def queue_for(model: str, job_class: JobClass) -> Queue:
    """The queue of a model and class as an object: undeclared queues are refused by name."""
    name = queue_name(model, job_class)
    return Queue(name, routing_key=name)


def open_redis(settings: Settings) -> Redis:
    """A client of Redis for what is asked within a request: it answers or fails within half a second, once."""
    return Redis.from_url(
        settings.require_redis_url(),
        socket_timeout=REQUEST_TIMEOUT_S,
        socket_connect_timeout=REQUEST_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
