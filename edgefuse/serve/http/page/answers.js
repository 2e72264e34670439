// What is answered: each output by its kind, what each input added to it, and what it took.

import { make } from './elements.js';

const MOST = 5; // rows before the others are folded away; of several outputs fewer

function percent(share) {
  if (share > 0.999 && share < 1) return '> 99.9 %';
  return share > 0 && share < 0.001 ? '< 0.1 %' : `${(100 * share).toFixed(1)} %`;
}

function number(value) {
  if (value === null) return 'infinite';
  return `${+value.toPrecision(Math.abs(value) < 1e4 ? 4 : 7)}`.replaceAll('-', '−'); // 7: all that float32 has
}

function signed(value, digits = 1) {
  const told = Math.abs(value).toFixed(digits);
  return Number(told) ? (value < 0 ? '−' : '+') + told : told;
}

function bar(share, from = 0) {
  const part = make('i', { className: share < 0 ? 'less' : '' });
  part.style.setProperty('--share', Math.abs(share)); // what the policy of the service forbids is `style` in markup
  part.style.setProperty('--from', share < 0 ? from + share : from);
  return make('span', { className: from ? 'bar signed' : 'bar', ariaHidden: 'true' }, part);
}

function table(caption, head, rows, className = '') {
  const made = make('table', { className });
  if (caption) made.append(make('caption', {}, caption));
  if (head.length) made.append(make('thead', {}, make('tr', {}, ...head.map((one) => make('th', { scope: 'col' }, one)))));
  made.append(make('tbody', {}, ...rows));
  return make('div', { className: 'scroll' }, made);
}

function row(name, cells, className = '') {
  return make('tr', { className }, make('th', { scope: 'row' }, name), ...cells.map((cell) => make('td', {}, cell)));
}

function folded(rows, answer, what, kind = 'bars') {
  const few = Object.keys(answer.outputs).length > 1 ? 3 : MOST;
  const most = rows.length === few + 1 ? rows.length : few;
  const parts = [table('', [], rows.slice(0, most), kind)];
  const summary = make('summary', {}, `The other ${rows.length - most} ${what}`);
  if (rows.length > most) parts.push(make('details', {}, summary, table('', [], rows.slice(most), kind)));
  return parts;
}

// The labels of an output with a number each, the largest first.
function ranked({ labels }, numbers) {
  return labels.map((label, index) => [label, numbers[index]]).sort((one, other) => other[1] - one[1]);
}

function chances(found, isBest) {
  return found.map((one) => row(one[0], [bar(one[1]), percent(one[1])], isBest(one) ? 'best' : ''));
}

function softmax(numbers) {
  const logits = numbers.map((one) => one ?? -Infinity); // a class that is ruled out
  const most = logits.reduce((one, other) => Math.max(one, other));
  const powers = logits.map((one) => Math.exp(one - most));
  const whole = powers.reduce((one, other) => one + other);
  return powers.map((one) => one / whole);
}

function spelled({ labels, blank, end, separator }, steps) {
  const best = (logits) => logits.reduce((found, one, index) => (one > logits[found] ? index : found), 0);
  let ids = steps.map((logits) => best(logits.map((one) => one ?? -Infinity)));
  if (blank !== null) ids = ids.filter((id, index) => id !== ids[index - 1] && id !== blank);
  if (ids.includes(end)) ids = ids.slice(0, ids.indexOf(end));
  return ids.map((id) => labels[id]).join(separator);
}

function vector({ name }, { outputs }) {
  const flat = outputs[name].flat(Infinity);
  const told = `${flat.length} numbers: ${flat.slice(0, 8).map(number).join(', ')}${flat.length > 8 ? ', …' : ''}`;
  return { words: `${flat.length} numbers`, parts: [make('p', { className: 'muted small' }, told)] };
}

// By kind of output: the answer in words, and what is shown.
export const SHOWN = {
  classes(output, answer) {
    const found = ranked(output, softmax(answer.outputs[output.name][0]));
    const [label, share] = found[0];
    const said = make('p', { className: 'said' }, label, ' ', make('span', { className: 'muted' }, percent(share)));
    const rows = chances(found, (one) => one === found[0]);
    return { words: `${label}, ${percent(share)}`, parts: [said, ...folded(rows, answer, 'classes')] };
  },
  labels(output, answer) {
    const found = ranked(output, answer.outputs[output.name][0].map((one) => 1 / (1 + Math.exp(-one))));
    const given = (one) => one[1] > output.threshold;
    const words = found.filter(given).map(([label]) => label).join(', ') || 'none of the labels';
    return { words, parts: [make('p', { className: 'said' }, words), ...folded(chances(found, given), answer, 'labels')] };
  },
  values(output, answer) {
    const found = output.labels.map((label, index) => [label, number(answer.outputs[output.name][0][index])]);
    const rows = found.map(([label, value]) => row(label, [value]));
    return { words: found.slice(0, MOST).map((one) => one.join(' ')).join(', '), parts: folded(rows, answer, 'values', '') };
  },
  tokens(output, answer) {
    const words = spelled(output, answer.outputs[output.name][0]) || 'no text';
    return { words, parts: [make('p', { className: 'text' }, words)] };
  },
  embedding: vector,
  array: vector,
};

// What each input added to an output, as a heading and a table.
export function added(output, { contributions, outputs }) {
  if (!contributions) return [];
  const told = Object.entries(contributions.each);
  if (told.length > 1) told.push(['together', contributions.together]);
  const by = { classes: addedToClass, labels: addedToNumbers, values: addedToNumbers }[output.type] ?? addedToVector;
  const none = make('p', { className: 'small muted' }, 'None of these can be left out: there is nothing to compare with.');
  const shown = told.length ? by(output, outputs[output.name][0], told) : none;
  return [make('h3', {}, 'What each input added'), shown];
}

const kind = (name) => (name === 'together' ? 'sum' : '');

function addedToClass(output, logits, told) {
  const { name } = output;
  const odds = (one) => one.log_odds[name] ?? 0; // none where a probability is 0 or 1
  const most = Math.max(...told.map(([, one]) => Math.abs(odds(one)))) || 1;
  const known = told.filter(([, one]) => name in one.probability);
  const cells = (one) => [bar(odds(one) / most / 2, 0.5), signed(100 * one.probability[name])];
  const [[label]] = ranked(output, softmax(logits));
  const caption = `To the probability of “${label}”, in percentage points. The bars show log-odds.`;
  return table(caption, [], known.map(([input, one]) => row(input, cells(one), kind(input))), 'bars');
}

function addedToNumbers(output, numbers, told) {
  const { name, type } = output;
  const known = told.filter(([, one]) => name in one.values);
  const labels = type === 'labels' ? ranked(output, numbers).map(([label]) => label) : output.labels;
  const cell = (value) => (type === 'labels' ? signed(100 * value) : `${value > 0 ? '+' : ''}${number(value)}`);
  const rows = labels.slice(0, MOST).map((label) => row(label, known.map(([, one]) => cell(one.values[name][label]))));
  const caption = type === 'labels' ? 'To the probability of each label, in percentage points.' : 'To each value.';
  return table(caption, ['', ...known.map(([input]) => input)], rows);
}

function addedToVector({ name }, _, told) {
  const known = told.filter(([, one]) => name in one.distance);
  const rows = known.map(([input, one]) => row(input, [number(one.distance[name])], kind(input)));
  return table('How far each moved it (Euclidean distance).', [], rows);
}

export function took({ timing, rung, digest, contributions, tokens }, whole) {
  const { queued_ms: queued, preprocess_ms: preparing, infer_ms: inferring } = timing;
  const server = queued + (preparing ?? 0) + inferring;
  const alone = preparing === null ? 'inputs and model' : 'model'; // of tokens, both are one
  const within = contributions ? `${alone}, with and without each input` : alone;
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
