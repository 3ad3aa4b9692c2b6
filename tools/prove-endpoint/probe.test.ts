import { describe, expect, it } from 'vitest';
import { ARRIVAL_CHARACTERS_MAX, ARRIVALS_MAX, Arrivals } from './arrivals.ts';
import { confinedCases, tracer } from './cases.ts';
import { probeCommand, readOutcomes } from './probe.ts';

const run = 'b'.repeat(20);

describe('probeCommand', () => {
  it('fits the longest list, without characters special to a shell', () => {
    const target = { run, address: '203.0.113.5', zone: 'canary.test' };
    const probes = confinedCases(target, tracer(run)).map(({ probe }) => probe);
    expect(probeCommand(probes, 5)).toMatch(
      /^python3 -c 'import base64; exec\(base64\.b64decode\("[\w+/=]+"\)\)' [\w+/=]+ 5$/,
    );
  });
});

describe('readOutcomes', () => {
  const one = { outcome: 'silence', text: '', secured: false };

  it('uses the last line, and only one outcome per probe', () => {
    expect(readOutcomes(`hello\n${JSON.stringify([one])}\n`, 1)).toEqual([one]);
    for (const text of ['', 'x', '{}', '[{}]', '[1]', JSON.stringify([one, one])])
      expect(readOutcomes(text, 1)).toBeUndefined();
  });
});

describe('Arrivals', () => {
  it('returns arrivals of one run only, ignores case, and is bounded', () => {
    const arrivals = new Arrivals();
    const text = `X${run.toUpperCase()}x0001`;
    arrivals.add({ protocol: 'dns', port: 53, text });
    arrivals.add({ protocol: 'dns', port: 53, text: 'c'.repeat(20) });
    expect(arrivals.of(run)).toEqual([{ protocol: 'dns', port: 53, text }]);
    arrivals.add({ protocol: 'http', port: 80, text: `${run}${'y'.repeat(10_000)}` });
    expect(arrivals.of(run).at(-1)?.text).toHaveLength(ARRIVAL_CHARACTERS_MAX);
    for (let count = 0; count <= ARRIVALS_MAX; count += 1) arrivals.add({ protocol: 'tcp', port: 80, text: '' });
    expect(arrivals.of(run)).toEqual([]);
  });
});
