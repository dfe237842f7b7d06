
'use strict';
const byId = (id) => document.getElementById(id);

// An element with a class, and what is in it: texts and elements. Nothing is ever set as HTML.
function make(name, kind, ...inner) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...inner);
  return made;
}

function draw(name, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
}

const words = (key) => String(key).replaceAll('_', ' ');
// A column's name; its unit is with each value.
const column = (key) => words(key.replace(/_(per_second|seconds|bytes|ms|percent)$/, ''));
const isPlain = (value) => value === null || typeof value !== 'object';

// --- numbers for people ---
function short(value, digits = 3) {
  if (value === 0) return '0';
  const steps = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, '']];
  const [step, unit] = steps.find(([step]) => Math.abs(value) >= step) || [1, ''];
  return Number((value / step).toPrecision(digits)) + unit;
}
const units = {
  rate: (value) => short(value) + '/s',
  seconds(value) {
    if (value === 0) return '0 s';
    if (value < 1e-3) return short(value * 1e6) + '\u00a0µs';
    if (value < 1) return short(value * 1e3) + '\u00a0ms';
    if (value < 600) return short(value) + '\u00a0s';
    if (value < 7200) return short(value / 60) + '\u00a0min';
    return value < 172800 ? short(value / 3600) + '\u00a0h' : short(value / 86400) + '\u00a0d';
  },
  share: (value) => Number((value * 100).toPrecision(3)) + '\u00a0%',
  bytes(value) {
    const steps = [[2 ** 30, '\u00a0GiB'], [2 ** 20, '\u00a0MiB'], [2 ** 10, '\u00a0KiB']];
    const [step, unit] = steps.find(([step]) => value >= step) || [1, '\u00a0B'];
    return Number((value / step).toPrecision(3)) + unit;
  },
};

// --- plots ---
const plots = [
  { id: 'sources', title: 'Answers by source', unit: 'rate' },
  { id: 'rcodes', title: 'Response codes', unit: 'rate' },
  { id: 'latency', title: 'Latency', unit: 'seconds' },
  { id: 'hit_rate', title: 'Cache hit rate', unit: 'share', top: 1 },
  { id: 'upstreams', title: 'Round trip of upstreams, mean', unit: 'seconds' },
  { id: 'store_age', title: 'Age of the cluster store', unit: 'seconds' },
  { id: 'memory', title: 'Memory', unit: 'bytes' },
];

// The top of an axis: the next of 1, 2, 5 times a power of ten; for bytes a power of two.
function ceiling(highest, unit) {
  if (!(highest > 0)) return unit === 'bytes' ? 2 ** 20 : unit === 'seconds' ? 1e-3 : 1;
  if (unit === 'bytes') return 2 ** Math.ceil(Math.log2(highest));
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= highest * 0.999);
}

class Plot {
  constructor(about) {
    this.about = about;
    this.at = null;
    this.svg = draw('svg', { 'aria-hidden': 'true' });
    this.legend = make('ul', 'legend');
    this.caption = make('figcaption', '', about.title);
    this.figure = make('figure', '', this.caption, this.svg, this.legend);
    this.figure.tabIndex = 0;
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => this.read(null));
    this.figure.addEventListener('blur', () => this.read(null));
    this.figure.addEventListener('keydown', (event) => this.key(event));
  }

  point(event) {
    if (!this.ages || !this.ages.length) return;
    const place = event.clientX - this.svg.getBoundingClientRect().left;
    const far = this.ages.map((age) => Math.abs(this.x(age) - place));
    this.read(far.indexOf(Math.min(...far)));
  }

  key(event) {
    const last = (this.ages || []).length - 1;
    const from = this.at === null ? last + 1 : this.at;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from - 12, PageDown: from + 12, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') this.read(null);
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.read(Math.max(0, Math.min(last, to)));
  }

  read(at) {
    this.at = at;
    if (this.series) this.show();
  }

  x(age) { return this.left + (1 - age / this.span) * (this.width - this.left - 4); }

  show(history) {
    if (history) {
      this.ages = history.age_seconds;
      // Soon after a start the plots show less time, so that there is something to see.
      const oldest = Math.max(0, ...this.ages);
      this.span = [60, 300].find((span) => oldest <= span) || history.span_seconds;
      this.series = Object.entries(history.series[this.about.id] || {});
    }
    const unit = units[this.about.unit];
    const [height, below, above] = [this.svg.clientHeight || 150, 16, 8];
    const numbers = this.series.flatMap(([, values]) => values.filter((value) => value !== null));
    const top = this.about.top || ceiling(Math.max(0, ...numbers), this.about.unit);
    this.width = this.svg.clientWidth || 300;
    this.left = 10 + 6.2 * Math.max(...[0, top / 2, top].map((value) => unit(value).length));
    const y = (value) => above + (1 - value / top) * (height - above - below);
    const parts = [];
    for (const value of [0, top / 2, top]) {
      parts.push(draw('line', { class: 'grid', x1: this.left, x2: this.width, y1: y(value), y2: y(value) }));
      parts.push(draw('text', { x: this.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, unit(value)));
    }
    for (const part of this.span > 300 ? [3, 2, 1, 0] : [2, 1, 0]) {
      const age = part * this.span / (this.span > 300 ? 3 : 2);
      const anchor = part === 0 ? 'end' : age === this.span ? 'start' : 'middle';
      const text = age === 0 ? 'now' : '\u2212' + (age < 60 ? age + ' s' : age / 60 + ' min');
      parts.push(draw('text', { x: this.x(age), y: height - 3, 'text-anchor': anchor }, text));
    }
    this.series.forEach(([, values], number) => {
      let line = '', pen = 'M';
      values.forEach((value, n) => {
        if (value === null) { pen = 'M'; return; }
        line += pen + this.x(this.ages[n]).toFixed(1) + ' ' + y(Math.min(value, top)).toFixed(1);
        pen = 'L';
      });
      parts.push(draw('path', { class: 'c' + number % 8, d: line }));
    });
    const n = this.at === null ? this.ages.length - 1 : Math.min(this.at, this.ages.length - 1);
    if (this.at !== null && n >= 0) {
      const x = this.x(this.ages[n]);
      parts.push(draw('line', { class: 'hand', x1: x, x2: x, y1: above, y2: height - below }));
      this.series.forEach(([, values], number) => {
        if (values[n] !== null) parts.push(draw('circle', { class: 'c' + number % 8, cx: x, cy: y(Math.min(values[n], top)), r: 3 }));
      });
    }
    this.svg.replaceChildren(...parts);
    this.say(n, unit);
  }

  // The legend tells the numbers of the moment in words: what a reader of screens gets instead of the lines.
  say(n, unit) {
    const when = this.at === null || n < 0 ? '' : ', ' + units.seconds(this.ages[n]) + ' ago';
    this.caption.textContent = this.about.title + when;
    const items = this.series.map(([name, values], number) => {
      const value = n < 0 || values[n] === null ? '\u2013' : unit(values[n]);
      const sample = draw('svg', { viewBox: '0 0 24 8', 'aria-hidden': 'true' });
      sample.append(draw('path', { class: 'c' + number % 8, d: 'M0 4L24 4' }));
      return make('li', 'c' + number % 8, sample, make('span', '', words(name) + ' ' + value));
    });
    this.legend.replaceChildren(...(items.length ? items : [make('li', '', make('span', '', 'nothing to show'))]));
    if (document.activeElement === this.figure) this.legend.setAttribute('aria-live', 'polite');
    else this.legend.removeAttribute('aria-live');
  }
}

const drawn = plots.map((about) => new Plot(about));
byId('plots').append(...drawn.map((plot) => plot.figure));

// --- tables ---
function cell(key, value) {
  if (value === null || value === undefined) return '\u2013';
  if (Array.isArray(value)) return value.length ? value.map((item) => cell(key, item)).join(', ') : 'none';
  if (typeof value === 'object') return Object.entries(value).map(([key, value]) => words(key) + ' ' + cell(key, value)).join(', ');
  if (value === true) return 'yes';
  if (value === false) return 'no';
  if (typeof value === 'number' && /bytes$/.test(key)) return units.bytes(value);
  if (typeof value === 'number' && /_per_second$/.test(key)) return units.rate(value);
  if (typeof value === 'number' && /(^|_)seconds/.test(key)) return units.seconds(value);
  if (typeof value === 'number' && /_ms$/.test(key)) return units.seconds(value / 1e3);
  if (typeof value === 'number' && /_percent$/.test(key)) return units.share(value / 100);
  return typeof value === 'number' && !Number.isInteger(value) ? short(value) : String(value);
}

function table(title, rows) {
  const id = title.toLowerCase().replaceAll(' ', '-');
  const first = ['to', 'kind', 'zones', 'from', 'state', 'addresses', 'objects'];
  const place = (key) => (first.includes(key) ? first.indexOf(key) : first.length);
  const keys = [...new Set(rows.flatMap(Object.keys))].filter((key) => rows.some((row) => row[key] !== null && row[key] !== undefined));
  keys.sort((a, b) => place(a) - place(b));
  const head = make('tr', '', ...keys.map((key) => { const th = make('th', '', column(key)); th.scope = 'col'; return th; }));
  const body = rows.map((row) => make('tr', '', ...keys.map((key) => make('td', '', cell(key, row[key])))));
  const heading = make('h2', '', title);
  heading.id = id;
  const wide = make('div', 'wide', make('table', '', make('thead', '', head), make('tbody', '', ...body)));
  // What is wider than the screen is scrolled, by keyboard too.
  wide.tabIndex = 0;
  wide.setAttribute('role', 'region');
  wide.setAttribute('aria-labelledby', id);
  const made = make('section', '', heading, wide);
  made.setAttribute('aria-labelledby', id);
  return made;
}

// One row for each of several: {Services: {...}, Namespaces: {...}}.
function rowsOf(value, name) {
  return Object.entries(value || {}).filter(([, row]) => !isPlain(row)).map(([key, row]) => ({ [name]: key, ...row }));
}

function tree(value) {
  return make('dl', '', ...Object.entries(value).flatMap(([key, value]) => {
    const flat = isPlain(value) || (Array.isArray(value) && value.every(isPlain));
    const inner = flat ? [cell(key, value)] : Array.isArray(value) ? value.map((one) => (isPlain(one) ? cell(key, one) : tree(one))) : [tree(value)];
    return [make('dt', '', words(key)), make('dd', '', ...inner)];
  }));
}

// --- state ---
function showState(status) {
  const holding = status.conditions || [];
  const state = status.state || 'OK';
  const kind = state.toLowerCase();
  const why = holding.length ? holding.map((one) => one.title).join('; ') : 'nothing is wrong';
  const text = state + why;
  // Said again only when it changes, so that a reader of screens is not interrupted every time.
  if (byId('verdict').textContent !== text) byId('verdict').replaceChildren(make('b', kind, state), why);
  document.title = (state === 'OK' ? '' : state + ' ') + 'Nodens ' + (location.hostname || '');
  byId('conditions').replaceChildren(...holding.map((one) => {
    const since = typeof one.since_seconds_ago === 'number' ? ' for ' + units.seconds(one.since_seconds_ago) : '';
    return make('li', one.severity, make('p', '', make('strong', '', one.title), since),
      ...(one.evidence || []).map((line) => make('p', '', line)), make('p', '', one.cure || ''), make('p', 'note', one.manual || ''));
  }));
  byId('host').textContent = location.host;
  const up = status.uptime_seconds === undefined ? '' : ', up ' + units.seconds(status.uptime_seconds);
  byId('about').textContent = 'Version ' + (status.version || '?') + up + '. Renewed ' + new Date().toLocaleTimeString() + '.';
}

function showTables(status) {
  const made = [];
  for (const [title, rows] of tables(status)) if (rows.length) made.push(table(title, rows));
  // What is scrolled stays so, and what has the focus keeps it.
  const held = [...byId('tables').querySelectorAll('.wide')].map((wide) => [wide.getAttribute('aria-labelledby'), wide.scrollLeft, wide === document.activeElement]);
  byId('tables').replaceChildren(...made);
  for (const [id, left, focused] of held) {
    const wide = byId(id) && byId(id).nextElementSibling;
    if (!wide) continue;
    wide.scrollLeft = left;
    if (focused) wide.focus({ preventScroll: true });
  }
  if (byId('everything').open) byId('everything').lastElementChild.replaceChildren(tree(status));
}

function tables(status) {
  const stores = (status.sources || []).flatMap((one) => rowsOf(one.kinds, 'kind'));
  return [['Upstreams', status.upstreams || []], ['Cluster objects', stores], ['Zones', status.blocks || []]];
}

// --- renewal ---
let latest = null;
byId('everything').addEventListener('toggle', () => latest && showTables(latest));

async function get(path) {
  const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(4000) });
  if (!answer.ok) throw new Error(path + ' answers ' + answer.status);
  return answer.json();
}

async function renew() {
  try {
    const [status, history] = await Promise.all([get('/status.json'), get('/history.json')]);
    latest = status;
    showState(status);
    drawn.forEach((plot) => plot.show(history));
    showTables(status);
    byId('lost').hidden = true;
  } catch (error) {
    const lost = byId('lost');
    if (lost.hidden) lost.textContent = 'No answer since ' + new Date().toLocaleTimeString() + ': ' + error.message + '. What is below is old.';
    lost.hidden = false;
  }
}

let timer = 0;
function keep() {
  clearInterval(timer);
  if (document.hidden) return;
  renew();
  timer = setInterval(renew, 5000);
}
document.addEventListener('visibilitychange', keep);
addEventListener('resize', () => drawn.forEach((plot) => plot.series && plot.show()));
keep();
