import { describe, expect, it } from 'vitest';
import type { CanaryArrival } from './arrivals.ts';
import type { Case } from './case.ts';
import { confinedCases, nameOf, type Target, tracer } from './cases.ts';
import type { ProbeOutcome } from './probe.ts';
import { type Evidence, judge } from './verdict.ts';

const run = 'a'.repeat(20);
const target: Target = { run, address: '203.0.113.5', zone: 'canary.test' };
const allowed = nameOf(target, 'allowed');
const other = nameOf(target, 'other');
const cases = confinedCases(target, tracer(run));
const caseOf = (what: string): Case => {
  const found = cases.find((each) => each.what === what);
  if (found === undefined) throw new Error(`no case ${what}`);
  return found;
};
const silence: ProbeOutcome = { outcome: 'silence', text: '', secured: false };
const answer = (text: string): ProbeOutcome => ({ outcome: 'answer', text, secured: false });
const http = (text: string): CanaryArrival => ({ protocol: 'http', port: 80, text });

function ok(what: string, evidence: Partial<Evidence> = {}): boolean {
  const nothing = { arrivals: [], hearsQuestions: true, wall: new Set<string>(), allowed: [allowed] };
  return judge(caseOf(what), { ...nothing, outcome: silence, ...evidence }).ok;
}

/** The marker that the case sends. */
function traceOf(what: string): string {
  const text = JSON.stringify(caseOf(what).probe);
  return text.match(new RegExp(`${run}x\\d+`))?.[0] ?? '';
}

describe('judge', () => {
  it('a forged request that arrives unchanged is a leak; one rewritten to the allowed name is not', () => {
    const what = 'two Hosts';
    const line = `GET /${traceOf(what)} HTTP/1.1\r\n`;
    expect(ok(what)).toBe(true);
    expect(ok(what, { arrivals: [http(`${line}Host: ${allowed}\r\n\r\n`)] })).toBe(true);
    for (const head of [`Host: ${other}`, `Host: ${allowed}\r\nHost: ${other}`, 'X: y'])
      expect(ok(what, { arrivals: [http(`${line}${head}\r\n\r\n`)] })).toBe(false);
    const absolute = `GET http://${other}/${traceOf(what)} HTTP/1.1\r\nHost: ${allowed}\r\n\r\n`;
    expect(ok(what, { arrivals: [http(absolute)] })).toBe(false);
  });

  it('ignores arrivals of another try', () => {
    const arrivals = [http(`GET /${traceOf('no Host')} HTTP/1.1\r\n\r\n`)];
    expect(ok('two Hosts', { arrivals })).toBe(true);
    expect(ok('no Host', { arrivals })).toBe(false);
  });

  it('a page of the canary under another name is a leak, even without an arrival', () => {
    const page = (name: string) => answer(`HTTP/1.1 200 Canary\r\n\r\nhere is the canary: ${name}\n`);
    expect(ok('Host is another name', { outcome: page(allowed) })).toBe(true);
    expect(ok('Host is another name', { outcome: page(other) })).toBe(false);
  });

  it('a forged server name is a leak as soon as its hello arrives', () => {
    const hello: CanaryArrival = { protocol: 'tls', port: 443, text: nameOf(target, 'elsewhere') };
    expect(ok('SNI is forged', { arrivals: [hello] })).toBe(false);
  });

  it('DNS queries: judged by the canary, ignoring case; else by the answer in the sandbox', () => {
    const what = 'a name that no rule allows';
    const text = `${traceOf(what).toUpperCase()}.x`;
    const arrivals: CanaryArrival[] = [{ protocol: 'dns', port: 53, text }];
    const resolved = answer('code 0, 1 answers');
    expect(ok(what, { outcome: resolved })).toBe(true);
    expect(ok(what, { outcome: resolved, arrivals })).toBe(false);
    expect(ok(what, { outcome: resolved, hearsQuestions: false })).toBe(false);
    const refused = answer('code 3, 0 answers');
    expect(ok(what, { outcome: refused, hearsQuestions: false })).toBe(true);
  });

  it('without a canary: any answer but the endpoint’s own refusal is a leak', () => {
    const what = 'metadata: 169.254.169.254 port 80';
    expect(ok(what)).toBe(true);
    for (const status of [200, 401, 404])
      expect(ok(what, { outcome: answer(`HTTP/1.1 ${status} x\r\n\r\n`) })).toBe(false);
    expect(ok(what, { outcome: answer('HTTP/1.1 403 Forbidden\r\n\r\n') })).toBe(true);
    const wall = new Set(['go away']);
    expect(ok(what, { outcome: answer('go away\n'), wall })).toBe(true);
    expect(ok(what, { outcome: answer('come in\n'), wall })).toBe(false);
    // The former address of a name that flips.
    expect(ok(what, { outcome: answer('HTTP/1.1 200 x\r\n\r\nhere is the canary: x\n') })).toBe(true);
  });

  it('a header added on the way is a leak, except those that proxies add', () => {
    const what = 'TRACE /: what is added on the way';
    const head = (field: string) =>
      http(`TRACE / HTTP/1.1\r\nHost: ${allowed}\r\nX-Trace: ${traceOf(what)}\r\n${field}\r\n\r\n`);
    expect(ok(what, { arrivals: [head('Via: 1.1 x')] })).toBe(true);
    expect(ok(what, { arrivals: [head('Authorization: Bearer x')] })).toBe(false);
    const echo = answer('HTTP/1.1 200 x\r\n\r\nTRACE / HTTP/1.1\r\nX-Internal: 1\r\n');
    expect(ok(what, { outcome: echo })).toBe(false);
  });

  it('a case that could not run fails', () => {
    expect(ok('two Hosts', { arrivals: undefined })).toBe(false);
    expect(ok('an allowed name that leads to a private address', { hearsQuestions: false })).toBe(false);
  });

  it('makes text from outside printable', () => {
    const outcome = answer('\u001b[2J\u0007hello\r\n');
    const evidence = { arrivals: [], hearsQuestions: true, wall: new Set<string>(), allowed: [] };
    expect(judge(caseOf('IPv6: 2606:4700:4700::1111 port 80'), { ...evidence, outcome }).seen).toBe(
      'answer ".[2J.hello" (weaker evidence)',
    );
  });
});
