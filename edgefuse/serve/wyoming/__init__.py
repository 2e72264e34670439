"""A bundle as a service of the Wyoming protocol, which Home Assistant and other voice assistants speak.

- `limits`: what one peer may take: bytes, seconds, connections;
- `settings`: what whoever starts the service decides;
- `events`: events from a peer, within these limits;
- `roles`: what a model can do in the terms of the protocol;
- `info`: the answer to `describe`, without the model;
- `sound`: PCM as it comes over the wire;
- `utterances`: the last utterance that was heard, for the text that belongs to it;
- `recogniser`: the speech-to-text service that is asked in our place;
- `hearing`: one utterance on its way to it and its transcript on its way back;
- `answers`: from a text, and perhaps its sound, to the event that answers it;
- `connection`: one peer;
- `address`: where the service listens;
- `announcement`: multicast DNS, for those who want to be found;
- `service`: all of it: listening, connections, ending;
- `background`: the same in a thread of its own.
"""
