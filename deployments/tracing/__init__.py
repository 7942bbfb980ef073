"""OpenTelemetry traces of requests, where the Serve file asks for them (`tracing:`).

`traceparent` decides, `span` is what the code of ingress, target and drafter says, `otel` records
and exports it and is the only module that imports OpenTelemetry. Without `tracing` it never is.
"""
