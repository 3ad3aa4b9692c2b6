/** Parses the text format of Prometheus (0.0.4) strictly: an invalid line is an error. */

export interface ExposedSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface ExposedFamily {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: readonly ExposedSample[];
}

export function parseExposition(text: string): readonly ExposedFamily[] {
  const families: { name: string; type: string; help: string; samples: ExposedSample[] }[] = [];
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP ([a-z_][a-z0-9_]*) (.+)$/.exec(line);
    const type = /^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram)$/.exec(line);
    const family = families.at(-1);
    if (help !== null) {
      families.push({ name: help[1] ?? '', type: '', help: help[2] ?? '', samples: [] });
    } else if (type !== null && family !== undefined && family.name === type[1]) {
      family.type = type[2] ?? '';
    } else {
      const sample = parseSample(line);
      const ends = family?.type === 'histogram' ? /_(bucket|sum|count)$/ : /$/;
      if (family === undefined || sample.name.replace(ends, '') !== family.name) {
        throw new Error(`a sample outside its family: ${line}`);
      }
      family.samples.push(sample);
    }
  }
  return families;
}

function parseSample(line: string): ExposedSample {
  const match = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/.exec(line);
  if (match === null) throw new Error(`no sample: ${line}`);
  const [, name = '', set = '', number = ''] = match;
  const labels: Record<string, string> = {};
  const rest = set.replaceAll(/([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)",?/g, (_, key, value) => {
    labels[key] = value;
    return '';
  });
  const value = number === '+Inf' ? Infinity : Number(number);
  if (rest !== '' || Number.isNaN(value)) throw new Error(`no sample: ${line}`);
  return { name, labels, value };
}
