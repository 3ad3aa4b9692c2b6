import { describe, expect, it } from 'vitest';
import { checkJob, type RunFlags } from './job.ts';
import { onlyHere } from './run.ts';

const flags: RunFlags = { env: [], copy: [], out: [], warm: [], alias: [], allowModel: [], allowOut: [], denyOut: [] };

describe('onlyHere', () => {
  it.each<[Partial<RunFlags>, string | null]>([
    [{}, null],
    [{ model: 'llama3', memory: '1G', timings: true, template: 'data' }, null],
    [{ interactive: true, tty: true }, '-it'],
    [{ interactive: true, tty: true, image: 'alpine' }, null],
    [{ interactive: true, tty: true, build: '.' }, null],
    [{ interactive: true }, null],
    [{ boot: true }, '--boot'],
    [{ jail: 'enforce' }, '--jail'],
    [{ record: 'a.json' }, '--record'],
    [{ replay: 'a.json' }, '--replay'],
    [{ model: 'dir/My.GGUF' }, '--model FILE.gguf'],
  ])('%j: %s', (more, flag) => expect(onlyHere({ ...flags, ...more })).toBe(flag));
});

describe('checkJob', () => {
  it.each<[Partial<RunFlags>, string | null]>([
    [{ record: 'a.json', replay: 'a.json' }, '--record and --replay are mutually exclusive'],
    [{ entrypoint: 'sh' }, '--entrypoint needs --image, --build or --template'],
    [{ entrypoint: 'sh', image: 'alpine' }, null],
    [{ entrypoint: 'sh', build: '.' }, null],
    [{ entrypoint: '', template: 'web' }, null],
    [{ entrypoint: '', boot: true }, '--entrypoint needs --image, --build or --template'],
  ])('%j: %s', (more, message) => {
    const check = (): void => checkJob({ ...flags, ...more });
    if (message === null) expect(check).not.toThrow();
    else expect(check).toThrow(message);
  });
});
