// Hands on the samples of a microphone as they come: float32 in [-1, 1], at the rate of the context.

class Recorder extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
}

registerProcessor('recorder', Recorder);
