// The page of the service: asks for the model, then with what its fields hold.

import { SHOWN, added, took } from './answers.js';
import { $, make } from './elements.js';
import { fieldOf } from './fields.js';

const fields = [];
let token = ''; // in memory alone: whoever opens the browser later does not find it
let model = null;
let asking = null;

async function call(path, options = {}) {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: 'omit', redirect: 'error' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    const size = Math.round((options.body?.length ?? 0) / 2 ** 20); // one that is too large may be cut off before its 413 is read
    throw new Error(`The service cannot be reached${size ? `, or takes no request of ${size} MB (--max-body)` : ''}.`);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const sentence = told?.error?.message ?? `The service answered with the status ${response.status}.`;
  throw Object.assign(new Error(sentence), { status: response.status });
}

function complain(error) {
  const unknown = error?.status === 401;
  if (unknown) {
    $('access').hidden = false;
    $('ask').hidden = $('answered').hidden = true;
    $('token').focus();
  }
  $('error').textContent = error?.message ?? '';
  $('error').hidden = !error || (unknown && !token); // who has given no token yet is asked for one, not told off
}

async function open() {
  try {
    model = await (await call('v1/model')).json();
  } catch (error) {
    complain(error);
    return;
  }
  complain(null);
  document.title = `${model.model.name} · edgefuse`;
  $('name').textContent = model.model.name;
  const { modalities, outputs } = model.model;
  $('facts').textContent = [modalities, outputs].map((all) => all.map((one) => one.name).join(', ')).join(' → ');
  if (!fields.length) fields.push(...modalities.map(fieldOf));
  $('fields').replaceChildren(...fields.map((field) => field.element));
  $('explaining').hidden = model.generates || !modalities.some((one) => one.optional);
  $('access').hidden = true;
  $('ask').hidden = $('answered').hidden = false;
}

async function ask() {
  complain(null);
  asking = new AbortController();
  const busy = (on) => {
    $('go').setAttribute('aria-disabled', on); // not `disabled`: whoever asks by a key would lose the place
    if (document.activeElement === $('stop')) $('go').focus();
    $('stop').hidden = !on;
    $('answered').setAttribute('aria-busy', on);
  };
  busy(true);
  try {
    const inputs = {};
    for (const field of fields) {
      const value = await field.value();
      if (value !== undefined) inputs[field.modality.name] = value;
    }
    $('status').textContent = 'Asking …';
    const options = { method: 'POST', body: JSON.stringify({ inputs }), signal: asking.signal };
    const began = performance.now();
    const answer = model.generates ? await generated(options) : await predicted(options);
    $('answer').append(took(answer, performance.now() - began));
    if (innerWidth < 860) $('answered').scrollIntoView();
  } catch (error) {
    const stopped = error.name === 'AbortError';
    $('status').textContent = stopped ? 'Stopped.' : 'No answer.';
    if (!stopped || !model.generates) $('answer').replaceChildren(); // of what was asked before
    if (!stopped) complain(error);
  } finally {
    busy(false);
  }
}

async function predicted(options) {
  const explained = $('explain').checked && !$('explaining').hidden;
  const answer = await (await call(`v1/predict?explain=${explained}`, options)).json();
  const given = model.model.outputs.filter((output) => answer.outputs[output.name]);
  const shown = given.map((output) => ({ output, ...SHOWN[output.type](output, answer) }));
  const titled = ({ name }) => (shown.length > 1 ? [make('h2', {}, name)] : []);
  $('answer').replaceChildren(
    ...shown.map(({ output, parts }) =>
      make('div', { className: 'output' }, ...titled(output), ...parts, ...added(output, answer))),
  );
  const heard = shown.map(({ output, words }) => (shown.length > 1 ? `${output.name} ${words}` : words)).join('; ');
  $('status').replaceChildren(`From ${answer.present.join(', ')}`, make('span', { className: 'unseen' }, `: ${heard}`));
  return answer;
}

async function generated(options) {
  const text = make('p', { className: 'text' });
  $('answer').replaceChildren(text);
  $('status').textContent = 'Making tokens …';
  const response = await call('v1/generate', options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === 'AbortError') throw error;
      return { done: true };
    });
    if (done) throw new Error('The answer broke off.');
    const events = (rest + value).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      const [, kind, data] = /^event: (\w+)\ndata: (.*)$/s.exec(event);
      const told = JSON.parse(data);
      if (kind === 'error') throw new Error(told.error.message);
      text.textContent = told.text;
      if (kind !== 'done') continue;
      const hint = 'What each input added is not told of a model that makes one token after the other.';
      const optional = model.model.modalities.some((one) => one.optional);
      $('answer').append(make('p', { className: 'small muted' }, optional ? `${hint} Leave one out, and compare.` : hint));
      $('status').textContent = `From ${told.present.join(', ')}: ${told.tokens} tokens.`;
      return told;
    }
  }
}

$('access').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  $('token').value = '';
  open();
});
$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!$('go').matches('[aria-disabled=true]')) ask();
});
$('stop').addEventListener('click', () => asking.abort());

// A file may be dropped anywhere: the field below it takes it, or else the first one that is for such files.
const over = (event) => fields.find((field) => field.take && field.element.contains(event.target));
const drag = (event) => {
  event.preventDefault();
  const leaves = event.type === 'dragleave' && !event.relatedTarget;
  document.body.classList.toggle('dragging', event.type === 'dragover' || (event.type === 'dragleave' && !leaves));
  for (const field of fields) field.element.classList.toggle('over', event.type === 'dragover' && field === over(event));
};
for (const type of ['dragover', 'dragleave', 'drop']) addEventListener(type, drag);
addEventListener('drop', (event) => {
  const file = event.dataTransfer?.files[0];
  const field = file && (over(event) ?? fields.find((one) => one.accepts?.(file)));
  if (field) field.take(file);
});

open();
