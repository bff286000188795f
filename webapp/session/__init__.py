"""Session files: what was asked and answered, kept in one file that runs nothing."""

from .file import Annotations, Note, Session, open_recorded, read_session, with_trace, write_session

__all__ = ["Annotations", "Note", "Session", "open_recorded", "read_session", "with_trace", "write_session"]
