"""A bundle as a service of its machine or network.

In the order in which a request passes through them:

- `http`: `POST /v1/predict`, `POST /v1/generate` and what belongs to them, over HTTP and HTTPS.
- `wyoming`: intents and replies for Home Assistant and other voice assistants.
- `queue`: the requests of all services that wait in front of inference, a bounded number of them.
- `memory`: what large requests took goes back to the system.

Nothing of a request is logged, and nothing is kept beyond its life.
"""
