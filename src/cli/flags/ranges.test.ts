import { describe, expect, it } from 'vitest';
import * as ranges from './ranges.ts';

const usage = (message: string) => expect.objectContaining({ code: 'usage', message });

describe('ranges', () => {
  it.each([
    [ranges.cpus, '2', 2],
    [ranges.forks, '64', 64],
    [ranges.poolMin, '0', 0],
    [ranges.memory, '128', 128],
    [ranges.memory, '64G', 65_536],
    [ranges.disk, '16M', 16],
    [ranges.timeout, '168h', 604_800_000],
    [ranges.idleTimeout, '1s', 1000],
  ])('accepts a value in range: %o %s', (parse, text, value) => expect(parse(text)).toBe(value));

  it.each([
    [ranges.cpus, '0', '--cpus: 0 is out of range (1 to 32)'],
    [ranges.cpus, 'many', '--cpus: invalid number "many"'],
    [ranges.forks, '0', '--count: 0 is out of range (1 to 64)'],
    [ranges.poolMin, '2000', 'MIN: 2000 is out of range (0 to 256)'],
    [ranges.poolMax, '3000', 'MAX: 3000 is out of range (0 to 256)'],
    [ranges.port, '70000', '--port: 70000 is out of range (0 to 65535)'],
    [ranges.rounds, '0', '--rounds: 0 is out of range (1 to 10000)'],
    [ranges.memory, '1', '--memory: 1 is out of range (128M to 64G)'],
    [ranges.memory, '65G', '--memory: 65G is out of range (128M to 64G)'],
    [ranges.disk, '1M', '--disk: 1M is out of range (16M to 64G)'],
    [ranges.timeout, '0', '--timeout: 0 is out of range (1ms to 168h)'],
    [ranges.timeout, 'soon', '--timeout: invalid duration "soon"'],
    [ranges.idleTimeout, '10ms', '--idle-timeout: 10ms is out of range (1s to 168h)'],
  ])('names the option of a value out of range: %o %s', (parse, text, message) => {
    expect(() => parse(text)).toThrow(usage(message));
  });
});
