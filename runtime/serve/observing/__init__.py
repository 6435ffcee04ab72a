"""What an app says of itself: numbers for Prometheus, spans and numbers for OpenTelemetry, a log record a request.

Everything is of one app, nothing of the process; no text of a request or an answer is in any of it. It does not know
the APIs.
"""
