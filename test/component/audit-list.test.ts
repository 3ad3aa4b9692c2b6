/** `neurovisor audit ls` and `audit inspect`, of a log that a real bridge has written. */
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AuditedBridge, auditedBridge } from '../support/audited-bridge.ts';
import { cli } from '../support/cli.ts';
import { sendAnswer } from '../support/completions.ts';

let world: AuditedBridge;
beforeAll(async () => {
  world = await auditedBridge({ content: 'full', policy: { budget: { requests: 2 } } });
  const calls = [{ id: 'c', name: 'search', arguments: '{"q":"x"}' }];
  world.upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'Hello\u001b[31m you', calls }));
  for (const content of ['first question', 'second question', 'third']) {
    const messages = [{ role: 'user', content }];
    await world.fixture.call('/v1/chat/completions', { model: 'm1', messages });
  }
  await world.records(3);
  await world.end();
});
afterAll(() => world.close());

const audit = async (...args: string[]) =>
  await cli(['audit', ...args], { env: { NEUROVISOR_HOME: world.home } }).result;

describe('audit ls', () => {
  it('shows requests of a sandbox, the answers, and their cost', async () => {
    const { status, stdout } = await audit('ls', '--sandbox', 'sandbox-a', '--content');
    expect(status).toBe(0);
    const time = String.raw`\d{4}-\d\d-\d\dT[\d:.]+Z`;
    const use = String.raw`openai chat  m1 at shop  11 in 7 out  \$0\.000021  \d+ ms  ok  tools search`;
    expect(stdout).toMatch(
      new RegExp(
        String.raw`^ +1  ${time}  sandbox-a +acme +${use}
 +> first question
 +< Hello\?\[31m you
 +< \[\{"name":"search","arguments":"\{\\"q\\":\\"x\\"\}"\}\]
 +2 .*
 +> second question
(.*\n){2} +3  ${time}  sandbox-a +acme +openai chat  m1  refused: budget_spent
3 records: 22 tokens in, 14 out, \$0\.000042, 1 refused
$`,
      ),
    );
  });

  it('filters records; as JSON, one per line', async () => {
    const { stdout } = await audit('ls', '--outcome', 'budget_spent', '-o', 'json');
    expect(JSON.parse(stdout)).toMatchObject({ seq: 3, model: { refusal: 'budget_spent' } });
    const none = await audit('ls', '--tenant', 'acme', '--model', 'shop-m1', '--since', '2099-01-01');
    expect(none.stdout).toBe('0 records\n');
  });

  it('ends when its reader closes the pipe, as for `head`', async () => {
    const path = world.path('models');
    const text = await readFile(path, 'utf8');
    await writeFile(path, text.repeat(20_000));
    const args = [join(import.meta.dirname, '../../src/cli/main.ts'), 'audit', 'ls'];
    const child = spawn(process.execPath, args, {
      env: { ...process.env, NEUROVISOR_HOME: world.home },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const closed = new Promise((resolve) => child.once('close', resolve));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.stdout.destroy();
    expect(await closed).toBe(141);
    await writeFile(path, text);
  });

  it('names the fault of a command line', async () => {
    const wrong = await audit('ls', '--since', 'soon');
    expect([wrong.status, wrong.stderr]).toEqual([2, expect.stringContaining('--since: invalid time "soon"')]);
  });
});

describe('audit inspect', () => {
  it('has the whole content, and says if another was put there', async () => {
    const { status, stdout } = await audit('inspect', '2', '--tenant', 'acme', '-o', 'json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      record: { seq: 2, model: { name: 'm1' } },
      content: {
        request: { body: { messages: [{ content: 'second question' }] } },
        answer: { choices: [{ text: 'Hello\u001b[31m you' }] },
      },
      isChanged: false,
    });
    const path = world.path('content');
    await writeFile(path, (await readFile(path, 'utf8')).replace('second question', 'harmless one'));
    const changed = await audit('inspect', '2', '--tenant', 'acme');
    expect(changed.status).toBe(1);
    expect(changed.stderr).toContain('the content was changed');
    expect((await audit('inspect', '77')).stderr).toContain('there is no record 77');
  });
});
