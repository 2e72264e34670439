"""What the services and the voice assistant must show: `make soak-services`, to out/soak-services.json.

- `service`: `edgefuse serve` in a process and folders of its own, and what it takes, writes and says;
- `asking`: honest requests, over HTTP and Wyoming;
- `load`: many of them from another process, at a rate that does not wait for answers;
- `peers`: clients that keep to no protocol, and what they come to see;
- `hostility`: what they do to memory, files and the next honest request;
- `replicated`: replicas behind Ray Serve, and what kills them;
- `spoken`: the assistant of `examples/voice/` over many recordings;
- `shut`: a command where nothing can be reached or written;
- `lines`: the lines, a module each: whatever module lies there is one, and no table names it.

The frame is that of `benchmarks.soak`: a line names what it takes of `examples/`, and runs in a fresh process.
"""
