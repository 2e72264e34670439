"""A bundle as a service over HTTP and HTTPS: Flask behind cheroot.

- `limits`: what peers may take: bytes, seconds, connections;
- `refusal`: what a request is refused with, as JSON;
- `head`: the head of a request, read strictly;
- `request`: a request that has come whole, as cheroot reads and answers it;
- `connections`: connections until a whole request has come;
- `tls`: a certificate and its key;
- `server`: cheroot, with these connections in front of its threads;
- `token`: the bearer token, and who may do without;
- `inputs`: from a request's body to what a pipeline takes;
- `answers`: what the model answers, as JSON;
- `generation`: tokens as server-sent events;
- `described`: what the model takes and gives;
- `openapi`: the description of the endpoints;
- `metrics`: figures for Prometheus;
- `application`: the endpoints;
- `service`: all of it: listening, answering, ending.
"""
