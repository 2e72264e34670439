"""The verbs of the command line, one module each, and what they share.

- `arguments`: the parser of every verb;
- `modalities`: options named after a bundle's modalities;
- `terminal`: the one way of text to the terminal;
- `quieting`: what libraries write to stderr by themselves, kept from it;
- `console`: tables, JSON and progress;
- `ending`: cleaning up when a command is interrupted;
- `check`: `edgefuse check`;
- `compile`: `edgefuse compile`;
- `export`: `edgefuse export`;
- `inspect`: `edgefuse inspect`;
- `prepare`: `edgefuse prepare`;
- `verify`: `edgefuse verify`;
- `searching`: what `run --index` does;
- `run`: `edgefuse run`;
- `serve`: `edgefuse serve`;
- `voice`: what `serve --wyoming` takes, and the service that it starts;
- `replicas`: what `serve --replicas` takes, and the service that it runs;
- `swap`: `edgefuse swap`;
- `index`: `edgefuse index`;
- `bench`: `edgefuse bench`;
- `models`: `edgefuse models`;
- `demo`: `edgefuse demo`;
- `doctor`: `edgefuse doctor`.
"""
