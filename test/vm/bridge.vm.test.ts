/** The model's way from a real guest: plain HTTP in the guest, vsock, bridge, a scripted upstream. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { delta, done, finish, type MockUpstream, startEvents, startMockUpstream } from '../support/mock-upstream.ts';
import { python, useRuntime } from '../support/vm.ts';

const upstream: MockUpstream = await startMockUpstream();
const fixture = useRuntime(upstream.target.baseUrl ?? '');
let sandbox: Supervisor;

beforeAll(async () => {
  sandbox = await fixture.runtime.startVm({ memoryMib: 256 });
});
afterAll(async () => {
  await sandbox.stop();
  await upstream.close();
});

/** Standard library only, so that no test waits for LangChain's imports. */
const CLIENT = `
import http.client, json, os
from urllib.parse import urlsplit

def call(path, body=None, headers={}):
    at = urlsplit(os.environ['OPENAI_BASE_URL'])
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    data = None if body is None else json.dumps(body)
    connection.request('GET' if body is None else 'POST', at.path + path, data,
                       {'Content-Type': 'application/json', **headers})
    return connection.getresponse()

def chat(stream=False, model='m1', **more):
    return call('/chat/completions', {'model': model, 'stream': stream,
                'messages': [{'role': 'user', 'content': 'hi'}], **more})
`;

const run = (code: string) => python(sandbox.guest(), `${CLIENT}\n${code}`);

describe('bridge from a guest', () => {
  it('completion: it arrives, and the upstream sees none of the guest’s credentials', async () => {
    const seen = upstream.next();
    const outcome = await run(`
answer = call('/chat/completions', {'model': 'm1', 'messages': []},
              {'Authorization': 'Bearer stolen', 'X-Api-Key': 'k', 'Cookie': 'c=1'})
print(answer.status, json.loads(answer.read())['choices'][0]['message']['content'])
`);
    expect(outcome.stdout).toBe('200 hello\n');
    const { headers } = await seen;
    for (const name of ['authorization', 'x-api-key', 'cookie']) {
      expect(headers).not.toHaveProperty(name);
    }
  });

  it('stream: pieces arrive before it is complete', async () => {
    upstream.answer((_, response) => {
      startEvents(response);
      response.write(delta('one'));
      setTimeout(() => response.write(delta('two')), 300);
      setTimeout(() => response.end(finish + done), 600);
    });
    const outcome = await run(`
import time
answer = chat(stream=True)
times = []
for line in answer:
    if b'"content"' in line: times.append(time.monotonic())
print(len(times), times[-1] - times[0] > 0.15)
`);
    expect(outcome.stdout).toBe('2 True\n');
  });

  it('stream: an upstream that dies in the middle is an error in the stream, and the next request works', async () => {
    upstream.answer((_, response) => {
      startEvents(response);
      response.write(delta('half'));
      setTimeout(() => response.destroy(), 200);
    });
    const outcome = await run(`
text = chat(stream=True).read().decode()
print('half' in text, '"error"' in text, '[DONE]' in text)
`);
    expect(outcome.stdout).toBe('True True False\n');
    upstream.answer((_, response) => {
      startEvents(response);
      response.end(delta('again') + finish + done);
    });
    expect((await run(`print('again' in chat(stream=True).read().decode())`)).stdout).toBe('True\n');
  });

  it('stream: a script that ends in the middle cancels the upstream request', async () => {
    upstream.answer((_, response) => {
      startEvents(response);
      response.write(delta('begin'));
    });
    const seen = upstream.next();
    const outcome = await run(`
answer = chat(stream=True)
print(b'begin' in answer.readline())
os._exit(0)
`);
    expect(outcome.stdout).toBe('True\n');
    await (await seen).aborted;
  });

  it('refusals: a client that sends head and body apart, or 40 MiB, gets the answer', async () => {
    const outcome = await run(`
import time
def apart(path, data, pause):
    at = urlsplit(os.environ['OPENAI_BASE_URL'])
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.putrequest('POST', at.path + path)
    connection.putheader('Content-Length', str(len(data)))
    connection.endheaders()
    time.sleep(pause)
    connection.send(data)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())['error']['code']

print({apart('/nowhere', b'x' * 4000, 0.02 * n) for n in range(6)})
print(apart('/chat/completions', bytes(40 << 20), 0.1))
`);
    expect(outcome.stdout).toBe("{(404, 'unknown_url')}\n(413, 'body_too_large')\n");
  });

  it('policy: an unknown model and remote media are refused with errors of the dialect', async () => {
    const outcome = await run(`
import sys
for answer in (chat(model='m9'),
               call('/chat/completions', {'model': 'm1', 'messages': [{'role': 'user', 'content': [
                    {'type': 'image_url', 'image_url': {'url': 'http://169.254.169.254/latest'}}]}]})):
    body = json.loads(answer.read())
    print(answer.status, 'message' in body['error'])
`);
    expect(outcome.stdout).toBe('404 True\n400 True\n');
  });

  it('usage: tokens are counted even if the client did not ask for usage', () => {
    expect(fixture.usage.length).toBeGreaterThan(0);
    expect(fixture.usage.every((one) => one.sandboxId === sandbox.spec.id)).toBe(true);
  });
});
