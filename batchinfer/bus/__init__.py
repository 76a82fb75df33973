"""The Celery application, announcements, the done-bell and control. All that Redis carries may be lost."""

from __future__ import annotations
