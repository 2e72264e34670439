"""A bundle as a service of its machine or network.

In the order in which a request passes through them:

- `http`: `POST /v1/predict`, `POST /v1/generate` and what belongs to them, over HTTP and HTTPS.
- `ray`: the same endpoints by replicas, on one machine or many.
- `wyoming`: intents and replies for Home Assistant and other voice assistants.
- `ovos`: a transformer of utterances for OpenVoiceOS, which runs in its process.
- `intents`: what a request is for, by a model of classes.
- `queue`: the requests of all services that wait in front of inference, a bounded number of them.
- `memory`: what large requests took goes back to the system.

Nothing of a request is logged, and nothing is kept beyond its life.
"""
