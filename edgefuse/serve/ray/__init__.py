"""A bundle behind Ray Serve: replicas on one machine or many, and one address in front of them.

In the order in which a request passes through them:

- `options`: how many replicas, how much of a machine each takes, and how much waits.
- `proxy`: lets through what Ray's proxy is to hear of a request.
- `ingress`: reads a request within bounds, admits it or refuses it at once, and answers it.
- `replicas`: all replicas as one that answers: requests are handed over together, and again where a replica died.
- `replica`: a process with the bundle, which answers one request after the other.
- `application`: these as an application of Ray Serve.
- `reach`: who can reach these processes.
- `service`: the application with its cluster and its address, from start to stop.

What a replica answers is what `edgefuse.serve.http` answers: it runs that application itself.
"""
