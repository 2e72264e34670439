"""A bundle over HTTP and HTTPS.

In the order in which a request passes through them:

- `limits`: sizes and times that a client cannot exceed.
- `wire`: requests read strictly from a connection, in bounded time.
- `tls`: HTTPS.
- `watched`: the connections that wait for their client.
- `server`: whose turn it is: of the connections, and of the threads that answer.
- `gate`: refuses what the queue has no place for before it is read.
- `access`: who may ask: the bearer token, and the names of this host.
- `app`: the endpoints.
- `inputs`: what a pipeline takes, from JSON or from the parts of a form.
- `calls`: the call of the pipeline, in the queue.
- `events`: tokens as server-sent events.
- `answers`: what is sent, as typed records.
- `faults`: what kind of thing went wrong, as a status.
- `openapi`: the description of all this for one model.
- `metrics`: counters and times for Prometheus.
- `service`: all of it together, from start to stop.

The folder `page` holds what a browser is given at `/`.
"""
