// What is answered: each output by its kind, what each input added to it, and what it took.

import { make } from './elements.js';

const MOST = 5; // rows before the others are folded away; of several outputs fewer

function percent(share) {
  if (share > 0.999 && share < 1) return '> 99.9 %';
  return share > 0 && share < 0.001 ? '< 0.1 %' : `${(100 * share).toFixed(1)} %`;
}

function number(value) {
  if (value === null) return 'infinite';
  return `${+value.toPrecision(4)}`.replace('-', '−');
}

function signed(value, digits = 1) {
  const told = Math.abs(value).toFixed(digits);
  return Number(told) ? (value < 0 ? '−' : '+') + told : told;
}

function bar(share, from = 0) {
  const element = make('span', { className: from ? 'bar signed' : 'bar', ariaHidden: 'true' }, make('i', { className: share < 0 ? 'less' : '' }));
  element.firstChild.style.setProperty('--share', Math.abs(share)); // the policy of the service forbids `style` in markup alone
  element.firstChild.style.setProperty('--from', share < 0 ? from + share : from);
  return element;
}

function table(caption, head, rows, className = '') {
  const columns = head.length ? [make('thead', {}, make('tr', {}, ...head.map((one) => make('th', { scope: 'col' }, one))))] : [];
  const made = make('table', { className }, ...(caption ? [make('caption', {}, caption)] : []), ...columns, make('tbody', {}, ...rows));
  return make('div', { className: 'scroll' }, made);
}

function row(name, cells, className = '') {
  return make('tr', { className }, make('th', { scope: 'row' }, name), ...cells.map((cell) => make('td', {}, cell)));
}

function folded(rows, answer, what, kind = 'bars') {
  const few = Object.keys(answer.outputs).length > 1 ? 3 : MOST;
  const most = rows.length === few + 1 ? rows.length : few;
  const parts = [table('', [], rows.slice(0, most), kind)];
  if (rows.length > most) parts.push(make('details', {}, make('summary', {}, `The other ${rows.length - most} ${what}`), table('', [], rows.slice(most), kind)));
  return parts;
}

const chances = (output, shares) =>
  output.labels.map((label, index) => [label, shares[index]]).sort((one, other) => other[1] - one[1]);
const barred = ([label, share], index, best) => row(label, [bar(share), percent(share)], best ? 'best' : '');

function softmax(logits) {
  const [known, most] = [logits.map((one) => one ?? -Infinity), Math.max(...logits.filter((one) => one !== null))];
  const powers = known.map((one) => Math.exp(one - most));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((one) => one / sum);
}

function spelled(output, steps) {
  let ids = steps.map((logits) => logits.indexOf(Math.max(...logits.map((one) => one ?? -Infinity))));
  if (output.blank !== null) ids = ids.filter((id, index) => id !== ids[index - 1] && id !== output.blank);
  return (ids.includes(output.end) ? ids.slice(0, ids.indexOf(output.end)) : ids).map((id) => output.labels[id]).join(output.separator);
}

function vector(output, answer) {
  const flat = answer.outputs[output.name].flat(Infinity);
  const first = flat.slice(0, 8).map(number).join(', ');
  return [`${output.name}, ${flat.length} numbers`, make('p', { className: 'muted small' }, `${flat.length} numbers: ${first}${flat.length > 8 ? ', …' : ''}`)];
}

// By kind of output: a summary in words, and what is shown.
export const SHOWN = {
  classes(output, answer) {
    const found = chances(output, softmax(answer.outputs[output.name][0]));
    const [label, share] = found[0];
    return [
      `${label}, ${percent(share)}`,
      make('p', { className: 'said' }, label, ' ', make('span', { className: 'muted' }, percent(share))),
      ...folded(found.map((one, index) => barred(one, index, !index)), answer, 'classes'),
    ];
  },
  labels(output, answer) {
    const found = chances(output, answer.outputs[output.name][0].map((one) => 1 / (1 + Math.exp(-one))));
    const given = found.filter(([, share]) => share > output.threshold).map(([label]) => label);
    const told = given.join(', ') || 'None of the labels';
    return [
      told,
      make('p', { className: 'said' }, told),
      ...folded(found.map((one, index) => barred(one, index, one[1] > output.threshold)), answer, 'labels'),
    ];
  },
  values(output, answer) {
    const found = answer.outputs[output.name][0].map((value, index) => [output.labels[index], number(value)]);
    return [`${found.map((one) => one.join(' ')).join(', ')}`, ...folded(found.map(([label, value]) => row(label, [value])), answer, 'values', '')];
  },
  tokens(output, answer) {
    const text = spelled(output, answer.outputs[output.name][0]);
    return [text || 'no text', make('p', { className: 'text' }, text || 'No text.')];
  },
  embedding: vector,
  array: vector,
};

export function added(output, answer) {
  const { each, together } = answer.contributions ?? {};
  if (!each) return [];
  const names = Object.keys(each);
  const told = names.length > 1 ? [...names.map((name) => [name, each[name]]), ['together', together]] : names.map((name) => [name, each[name]]);
  const title = make('h3', {}, 'What each input added');
  if (!names.length) return [title, make('p', { className: 'small muted' }, 'None of them can be left out, so there is nothing to compare with.')];
  if (output.type === 'classes') return [title, ofClasses(output, answer, told)];
  if (output.type === 'labels' || output.type === 'values') return [title, ofNumbers(output, answer, told)];
  const rows = told.filter(([, one]) => output.name in one.distance).map(([name, one]) => row(name, [number(one.distance[output.name])], sum(name, told)));
  return rows.length ? [title, table('How far each input moved these numbers (Euclidean distance).', [], rows)] : [];
}

const sum = (name, told) => (name === 'together' && told.length > 1 ? 'sum' : '');

function ofClasses(output, answer, told) {
  const odds = (one) => one.log_odds[output.name] ?? 0;
  const most = Math.max(...told.map(([, one]) => Math.abs(odds(one))), 1e-9);
  const rows = told
    .filter(([, one]) => output.name in one.probability)
    .map(([name, one]) => row(name, [bar(odds(one) / most / 2, 0.5), signed(100 * one.probability[output.name])], sum(name, told)));
  const [[label]] = chances(output, softmax(answer.outputs[output.name][0]));
  return table(`To the probability of “${label}”, in percentage points; as log-odds in the bars.`, [], rows, 'bars');
}

function ofNumbers(output, answer, told) {
  const labels = output.type === 'labels';
  const shown = told.filter(([, one]) => output.name in one.values);
  const names = labels ? chances(output, answer.outputs[output.name][0]).map(([label]) => label) : output.labels;
  const cell = (value) => (labels ? signed(100 * value) : signed(value, Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(value) || 1))))));
  const rows = names.slice(0, MOST).map((label) => row(label, shown.map(([, one]) => cell(one.values[output.name][label]))));
  return table(labels ? 'To the probability of each label, in percentage points.' : 'To each value.', ['', ...shown.map(([name]) => name)], rows);
}

export function took({ timing, rung, digest, contributions, tokens }, whole) {
  const { queued_ms: queued, preprocess_ms: preparing, infer_ms: inferring } = timing;
  const server = queued + (preparing ?? 0) + inferring;
  const within = preparing === null ? `inputs and model${contributions ? ', with and without each' : ''}` : 'model';
  const ms = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
  const lines = [
    ['From asking to answer', ms(whole)],
    ['In the service', ms(server)],
    ...(queued >= 0.05 ? [['waiting for its turn', ms(queued), 'part']] : []),
    ...(preparing === null ? [] : [['preparing the inputs', ms(preparing), 'part']]),
    [within, ms(inferring), 'part'],
    ...(tokens ? [['per token', ms(inferring / tokens), 'part']] : []),
    ['Rung', rung],
    ['Bundle', digest.slice(0, 12)],
  ];
  const told = lines.flatMap(([term, value, className = '']) => [make('dt', { className }, term), make('dd', {}, value)]);
  return make('div', { className: 'output' }, make('h3', {}, 'What it took'), make('dl', {}, ...told));
}
