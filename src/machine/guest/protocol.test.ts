import { describe, expect, it } from 'vitest';
import { guestError, parseEntry, parseEvent, parseExitFrame, parseReply } from './protocol.ts';

const event = (fields: object) => parseEvent(Buffer.from(JSON.stringify(fields)));
const VICTIM = { pid: 7, name: 'python3', rssBytes: 4096 };

describe('events of memory', () => {
  const pressure = { type: 'pressure', memoryBytes: 1, highEvents: 2 };
  it.each([
    { ...pressure, limitBytes: 3, some: 12.5, full: 0 },
    { type: 'near_oom', memoryBytes: 1, limitBytes: 2 },
    { type: 'oom', oomKills: 1, detail: 'x', victim: VICTIM },
    { type: 'oom', oomKills: 1, detail: 'x', victim: null },
  ])('accepts %o', (value) => {
    expect(event(value)).toEqual({ ok: true, value });
  });

  it('fields that an older agent omits are unknown', () => {
    expect(event(pressure)).toMatchObject({ ok: true, value: { limitBytes: 0, some: 0, full: 0 } });
    expect(event({ type: 'oom', oomKills: 1, detail: 'x' })).toMatchObject({ value: { victim: null } });
  });

  it.each([
    { ...pressure, some: 101 },
    { ...pressure, full: -1 },
    { type: 'near_oom', memoryBytes: -1, limitBytes: 2 },
    { type: 'near_oom', memoryBytes: 1e300, limitBytes: 2 },
    { type: 'oom', oomKills: 1, detail: 'x', victim: { ...VICTIM, pid: 0 } },
    { type: 'oom', oomKills: 1, detail: 'x', victim: { ...VICTIM, rssBytes: 0.5 } },
    { type: 'oom', oomKills: 1, detail: 'x', victim: 'python3' },
  ])('refuses %o', (value) => {
    expect(event(value).ok).toBe(false);
  });

  it('a name is reduced to one printable line', () => {
    const victim = { ...VICTIM, name: `a\u001b[2J\n${'b'.repeat(9999)}` };
    const parsed = event({ type: 'oom', oomKills: 1, detail: 'x', victim });
    const name = parsed.ok && parsed.value.type === 'oom' ? (parsed.value.victim?.name ?? '') : '';
    expect(name).toMatch(/^a \[2J b+$/);
    expect(name.length).toBeLessThanOrEqual(500);
  });
});

describe('remedy of a refusal', () => {
  it('an image without Python: its programs can be run', () => {
    const refused = guestError('not_found', 'this image has no Python 3.10 or newer: use exec');
    expect(refused.remedy).toMatch(/^Run a program of the image instead/);
    expect(guestError('not_found', 'no such file').remedy).toMatch(/^Check the name/);
  });
});

describe('reason of a refusal', () => {
  it('quotes no control character of the guest', () => {
    for (const parse of [parseEvent, parseReply, parseEntry]) {
      const parsed = parse(Buffer.from('\x1b]0;owned\x07\u009b2J'));
      expect(parsed).toEqual({ ok: false, reason: expect.stringContaining('not JSON') });
      expect(JSON.stringify(parsed)).not.toMatch(/\p{Cc}|\\u001b/u);
    }
  });
});

describe('parseExitFrame', () => {
  const exit = { exitCode: null, signal: 'SIGKILL', timedOut: false, oomKilled: true, truncated: false, durationMs: 1 };
  it('names the victim; null for an agent that omits it', () => {
    const frame = (more: object) => Buffer.from(JSON.stringify({ type: 'exit', ...exit, ...more }));
    expect(parseExitFrame(frame({ oomVictim: VICTIM }))).toEqual({ ok: true, value: { ...exit, oomVictim: VICTIM } });
    expect(parseExitFrame(frame({}))).toMatchObject({ ok: true, value: { oomVictim: null } });
  });
});
