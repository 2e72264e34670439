"""Streams: timed inputs over a pipeline, and predictions as they come due.

- `feed`: `Feed`: how one modality comes in;
- `counts`: what became of every push;
- `clock`: the clock of a modality, on the time of the stream;
- `ordering`: what came out of order, put in order;
- `grid`: which step of a series is at which time;
- `resampling`: sound at another rate, chunk by chunk;
- `window`: the last steps of a series;
- `source`: what a stream has of one modality;
- `encoding`: a series that is encoded chunk by chunk;
- `series`: a source of steps: sound, arrays over time;
- `latest`: a source of which the latest item counts: a picture, a text;
- `intake`: all modalities' sources, clocks and counts, on one time;
- `triggers`: when predictions are due;
- `answer`: a prediction at a time;
- `holder`: what a stream runs on, and who may change that;
- `predictor`: what is due, predicted on the pipeline that runs now;
- `stream`: all of them over a pipeline.
"""
