// What is given: a field for each modality of the model. Nothing leaves a field before its value is asked for.

import { $, make } from './elements.js';

const CAMERA = { video: { facingMode: 'environment' } };
const MICROPHONE = { audio: { echoCancellation: false, noiseSuppression: false } }; // as it is: models are not trained on less
const KINDS = {
  image: { word: 'picture', accept: 'image/*', button: 'Use the camera', device: 'camera', wanted: CAMERA },
  audio: { word: 'sound', accept: 'audio/*', button: 'Record', device: 'microphone', wanted: MICROPHONE },
  video: { word: 'video', accept: 'video/*', button: '' },
  tensor: { word: '.npy or .json file', accept: '.npy,.json', button: '' },
};

function kindOf(modality) {
  const kind = modality.preprocess.kind;
  return kind.endsWith('image') ? 'image' : kind.endsWith('audio') ? 'audio' : kind;
}

function hint({ preprocess: made, tensors, optional }) {
  const size = `${made.width} × ${made.height}`;
  const sizes = (dim) => (typeof dim === 'number' ? dim : (dim.sizes?.join(' or ') ?? `up to ${dim.max}`));
  const told = {
    image: () => `${size}, ${made.channels === 1 ? 'grey' : 'colour'}`,
    audio: () => `up to ${+(made.samples / made.sample_rate_hz).toFixed(2)} s`,
    text: () => `up to ${made.max_length} tokens`,
    video: () => `${size}, up to ${+(made.frames / made.frames_per_second).toFixed(2)} s`,
    tensor: () => tensors.map((one) => `${one.name}: ${one.dtype} [${one.shape.map(sizes).join(', ')}]`).join('; '),
  };
  return `${told[kindOf({ preprocess: made })]()} · ${optional ? 'can be left out' : 'needed'}`;
}

class Field {
  constructor(modality, index, template) {
    this.modality = modality;
    this.element = $(template).content.firstElementChild.cloneNode(true);
    this.find('.name').textContent = modality.name;
    this.find('.name').id = `field-${index}`;
    this.find('.hint').textContent = hint(modality);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }
}

class Words extends Field {
  constructor(modality, index) {
    super(modality, index, 'words');
    this.area = this.find('textarea');
    this.area.id = `text-${index}`;
    this.find('.name').htmlFor = this.area.id;
    this.area.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $('ask').requestSubmit();
    });
  }

  async value() {
    return this.area.value.trim() ? this.area.value : undefined;
  }
}

class Media extends Field {
  constructor(modality, index) {
    super(modality, index, 'file');
    this.kind = KINDS[kindOf(modality)];
    this.element.setAttribute('aria-labelledby', `field-${index}`);
    this.file = this.finish = this.leave = null; // `finish` keeps what a device has heard or seen, `leave` ends it
    this.turn = 0;
    const input = this.find('input');
    input.accept = this.kind.accept;
    input.addEventListener('change', () => input.files[0] && this.take(input.files[0]));
    const [remove, device] = ['.remove', '.device'].map((part) => this.find(part));
    remove.addEventListener('click', () => {
      const byKey = remove.matches(':focus-visible');
      this.take(null);
      if (byKey) input.focus(); // what had it is gone
    });
    device.hidden = !this.kind.device;
    device.textContent = this.kind.button;
    device.addEventListener('click', () => {
      if (!device.matches('[aria-disabled=true]')) (this.finish ?? this.begin).call(this);
    });
    this.find('meter').setAttribute('aria-label', 'Level of the microphone');
    this.take(null);
  }

  accepts(file) {
    const { accept } = this.kind;
    if (accept.endsWith('*')) return file.type.startsWith(accept.slice(0, -1));
    return accept.split(',').some((end) => file.name.endsWith(end));
  }

  note(text = '') {
    this.find('.note').textContent = text;
    this.find('.note').hidden = !text;
  }

  take(file) {
    this.leave?.();
    this.turn += 1;
    this.file = file;
    this.note();
    URL.revokeObjectURL(this.url);
    const [view, word] = [this.find('.view'), this.kind.word];
    if (file) {
      this.url = URL.createObjectURL(file);
      const told = `${file.name}, ${(file.size / 1024).toFixed(0)} KiB`;
      const tag = { picture: 'img', sound: 'audio', video: 'video' }[word];
      const shown = { className: 'shown', src: this.url, title: told, ...(tag === 'img' ? { alt: told } : { controls: true }) };
      view.replaceChildren(tag ? make(tag, shown) : make('p', {}, told));
    } else {
      this.find('input').value = '';
      view.replaceChildren(make('p', { className: 'small muted drop' }, `Drop a ${word} here.`));
    }
    this.find('.remove').hidden = !file;
  }

  async begin() {
    const device = this.find('.device');
    device.setAttribute('aria-disabled', true);
    try {
      this.take(null);
      await (this.kind.device === 'camera' ? this.film() : this.record());
    } catch (error) {
      this.leave?.();
      this.note(error.message);
    } finally {
      device.setAttribute('aria-disabled', false);
    }
  }

  async stream() {
    const { device, wanted } = this.kind;
    if (!navigator.mediaDevices) {
      const secure = 'over HTTPS alone, or on the machine that serves it. Start the service with --tls-cert and --tls-key.';
      throw new Error(`Browsers give a page the ${device} ${secure}`);
    }
    const turn = this.turn;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      const known = { NotAllowedError: `The browser was not allowed to use the ${device}.`, NotFoundError: `There is no ${device}.` };
      throw new Error(known[error.name] ?? error.message);
    }
    if (turn !== this.turn) {
      for (const track of stream.getTracks()) track.stop();
      throw new Error(''); // a file was given meanwhile
    }
    const [button, remove, view, capture] = ['.device', '.remove', '.view', '.capture'].map((part) => this.find(part));
    const before = this.leave;
    stream.getTracks()[0].addEventListener('ended', () => this.finish?.()); // the device is gone
    this.leave = () => {
      before?.();
      for (const track of stream.getTracks()) track.stop();
      this.leave = this.finish = null;
      button.textContent = this.kind.button;
      remove.textContent = 'Remove';
      capture.hidden = true;
      view.hidden = false;
    };
    button.textContent = device === 'camera' ? 'Take the picture' : 'Stop';
    remove.textContent = 'Cancel';
    remove.hidden = capture.hidden = false;
    view.hidden = true;
    for (const part of capture.children) part.hidden = (part.localName === 'video') !== (device === 'camera');
    return stream;
  }

  async film() {
    const video = this.find('video');
    video.srcObject = await this.stream();
    await video.play();
    if (!this.leave) return; // it was given up meanwhile
    this.finish = async () => {
      const canvas = make('canvas', { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext('2d').drawImage(video, 0, 0);
      const blob = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.95));
      this.take(new File([blob], 'camera.jpg', { type: blob.type }));
    };
  }

  async record() {
    const context = new AudioContext(); // within the click: later, some browsers would not start it
    this.leave = () => {
      this.leave = null;
      context.close();
    };
    const stream = await this.stream();
    await context.audioWorklet.addModule(new URL('recorder.js', import.meta.url));
    if (!this.leave) return;
    const seconds = this.modality.preprocess.samples / this.modality.preprocess.sample_rate_hz;
    const most = Math.ceil(seconds * context.sampleRate);
    const node = new AudioWorkletNode(context, 'recorder', { channelCount: 1, channelCountMode: 'explicit' });
    const sound = new Float32Array(most);
    let [count, level, loudest] = [0, 0, 0];
    node.port.onmessage = ({ data }) => {
      if (!this.finish || (!count && data.every((sample) => sample === 0))) return; // the device is starting
      sound.set(data.subarray(0, most - count), count);
      count = Math.min(most, count + data.length);
      const peak = data.reduce((so_far, sample) => Math.max(so_far, Math.abs(sample)), 0);
      loudest = Math.max(loudest, peak);
      level = Math.max(peak, 0.99 * level);
      this.find('meter').value = Math.max(0, 1 + Math.log10(level + 1e-9) / 3); // 60 dB
      this.find('.seconds').textContent = `${(count / context.sampleRate).toFixed(1)} of ${seconds.toFixed(1)} s`;
      if (count === most) this.finish();
    };
    this.finish = () => {
      const bytes = wav(sound.subarray(0, count), context.sampleRate);
      this.take(count ? new File([bytes], 'recording.wav', { type: 'audio/wav' }) : null);
      if (loudest < 1e-4) this.note('The microphone was silent.');
    };
    context.createMediaStreamSource(stream).connect(node).connect(context.destination); // the node plays silence
  }

  async value() {
    await this.finish?.(); // of what a device was doing
    if (!this.file) return undefined;
    if (this.file.name.endsWith('.json')) {
      try {
        return JSON.parse(await this.file.text());
      } catch {
        throw new Error(`'${this.modality.name}' cannot be read: ${this.file.name} holds no JSON.`);
      }
    }
    const url = await new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      const gone = `'${this.modality.name}' cannot be read: ${this.file.name} is gone, or has changed.`;
      reader.onerror = () => failed(new Error(gone));
      reader.readAsDataURL(this.file);
    });
    return url.slice(url.indexOf(',') + 1);
  }
}

export function fieldOf(modality, index) {
  return modality.preprocess.kind === 'text' ? new Words(modality, index) : new Media(modality, index);
}

function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const words = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  words(0, 'RIFF');
  view.setUint32(4, 36 + 2 * samples.length, true);
  words(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  words(36, 'data');
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => view.setInt16(44 + 2 * index, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true));
  return view.buffer;
}
