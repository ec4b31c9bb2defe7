"""`uvicorn app:app` from the root of the repository runs the example application."""

from example_app.app import app, cqrs

__all__ = ["app", "cqrs"]
