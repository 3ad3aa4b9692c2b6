/** The server of E2B's code interpreter, as it runs in the guest, on this machine. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  type Answer,
  interpreterPackages,
  type LocalInterpreter,
  startInterpreter,
} from '../support/code-interpreter.ts';
import { requires } from '../support/requires.ts';

const START_MS_MAX = 180_000;

requires('generators', interpreterPackages()).describe('code interpreter', (packages) => {
  let interpreter: LocalInterpreter;
  beforeAll(async () => {
    interpreter = await startInterpreter(packages);
  }, START_MS_MAX);
  afterAll(async () => await interpreter[Symbol.asyncDispose]());

  const run = async (code: string, more: object = {}): Promise<Answer> => await interpreter.execute({ code, ...more });
  const results = ({ lines }: Answer) => lines.filter(({ type }) => type === 'result');
  const output = ({ lines }: Answer): string => lines.map(({ type, text }) => (type === 'stdout' ? text : '')).join('');
  const textOf = async (code: string, more: object = {}): Promise<unknown> =>
    results(await run(code, more))[0]?.['text'];

  it('answers with the number of the execution first and its end last', async () => {
    const first = await run('1 + 1');
    expect(first.lines).toEqual([
      { type: 'number_of_executions', execution_count: expect.any(Number) },
      { type: 'result', is_main_result: true, text: '2', extra: {} },
      { type: 'end_of_execution' },
    ]);
    const second = await run('2');
    const count = (answer: Answer): number => Number(answer.lines[0]?.['execution_count']);
    expect(count(second)).toBe(count(first) + 1);
  });

  it('health is answered', async () => {
    expect(await interpreter.send('GET', '/health')).toMatchObject({ status: 200 });
  });

  it.each([
    ["'a\"b'", 'a"b'],
    ['"it\'s"', "it's"],
    ['  x = 3\n  x', '3'],
    ['import asyncio\nawait asyncio.sleep(0)\n5', '5'],
    ['"é\u{1f600}"', 'é\u{1f600}'],
    ["class Two:\n  def __repr__(self): return \"'a' + 'b'\"\nTwo()", "'a' + 'b'"],
  ])('the text of %j is %j', async (code, text) => {
    expect(await textOf(code)).toBe(text);
  });

  it('commands and magics of IPython work, in the home', async () => {
    expect(output(await run('!pwd')).trim()).toBe(interpreter.home);
    expect(output(await run('%pwd\n%env TMPDIR\nprint("x")'))).toBe('x\n');
  });

  it('output has a time, and names its stream', async () => {
    const { lines } = await run('import sys\nprint("o")\nprint("e", file=sys.stderr)');
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT/);
    for (const [type, text] of [
      ['stdout', 'o\n'],
      ['stderr', 'e\n'],
    ]) {
      // Output may come in pieces.
      const pieces = lines.filter((line) => line.type === type);
      expect(pieces.map((piece) => piece['text']).join('')).toBe(text);
      for (const piece of pieces) {
        expect(piece).toEqual({ type, text: expect.any(String), timestamp: time });
      }
    }
  });

  it('an error has its name, value and a traceback without colors', async () => {
    const { lines } = await run('1 / 0');
    const error = lines.find(({ type }) => type === 'error');
    expect(error).toMatchObject({ name: 'ZeroDivisionError', value: 'division by zero' });
    expect(error?.['traceback']).toContain('----> 1 1 / 0');
    expect(error?.['traceback']).not.toContain('\u001b');
  });

  it('a plot is a picture and a chart, of which null values are sent too', async () => {
    const code =
      'import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label="a")\nplt.xlabel("Time (s)")\nplt.title("T")\nplt.show()';
    const [plot] = results(await run(code));
    expect(plot).toMatchObject({
      is_main_result: false,
      text: '<Figure size 640x480 with 1 Axes>',
      png: expect.stringMatching(/^iVBOR[\w+/=]+$/),
      extra: {},
      chart: {
        type: 'line',
        title: 'T',
        x_unit: 's',
        y_unit: null,
        elements: [
          {
            label: 'a',
            points: [
              [1, 3],
              [2, 4],
            ],
          },
        ],
      },
    });
  });

  it.each(['vertical', 'horizontal'])(
    'a %s plot of boxes has their quartiles, whiskers and all outliers',
    async (way) => {
      // The upper whisker of the first has no length: e2b-charts itself finds no chart here.
      const code = `import matplotlib.pyplot as plt
plt.boxplot([[1, 2, 2, 3, 3, 3, 4, 30, 40], [0.1, 0.2, 0.7]], patch_artist=True, tick_labels=['a', 'b'], orientation='${way}')
plt.show()`;
      const [plot] = results(await run(code));
      const b = { label: 'b', min: 0.1, first_quartile: expect.closeTo(0.15, 9), median: 0.2, max: 0.7, outliers: [] };
      expect(plot?.['chart']).toMatchObject({
        type: 'box_and_whisker',
        elements: [
          { label: 'a', min: 1, first_quartile: 2, median: 3, third_quartile: 4, max: 4, outliers: [30, 40] },
          { ...b, third_quartile: expect.closeTo(0.45, 9) },
        ],
      });
    },
  );

  it('a data frame is text, HTML and data, with times as text and gaps as null', async () => {
    const code =
      'import pandas as pd\npd.DataFrame({"n": [1, 2], "f": [0.5, None], "t": pd.to_datetime(["2020-01-02", None]), "s": ["a", "b"]})';
    expect(results(await run(code))[0]).toMatchObject({
      html: expect.stringContaining('<table'),
      data: { n: [1, 2], f: [0.5, null], t: ['2020-01-02T00:00:00', null], s: ['a', 'b'] },
    });
  });

  it('what is displayed has its own field; other types are extra', async () => {
    const code = `from IPython.display import display, HTML, Markdown, Latex, SVG, Javascript, JSON
display(HTML('<b>'), Markdown('# a'), Latex('$x$'), Javascript('1'), JSON({'a': 1}))
display({'text/plain': 'p', 'x/y': 1, 'application/pdf': 'JVBERi0='}, raw=True)
{'b': [1, None]}`;
    const { lines } = await run(code);
    for (const fields of [
      { html: '<b>' },
      { markdown: '# a' },
      { latex: '$x$' },
      { javascript: '1' },
      { json: { a: 1 } },
      { text: 'p', pdf: 'JVBERi0=', extra: { 'x/y': 1 } },
      { text: "{'b': [1, None]}", json: { b: [1, null] }, is_main_result: true },
    ]) {
      expect(lines).toContainEqual(expect.objectContaining(fields));
    }
  });

  it('images of Pillow are shown: as a value, by show and by save', async () => {
    const code = `from PIL import Image
image = Image.new('RGB', (2, 2))
image.save('x.png')
image.show()
image`;
    const shown = results(await run(code));
    expect(shown.map((one) => one['is_main_result'])).toEqual([false, false, true]);
    for (const one of shown) expect(one['png']).toMatch(/^iVBOR/);
  });

  it.each(['python', 'javascript', 'typescript', 'bash'])(
    'variables of one execution in %s are gone after it',
    async (language) => {
      const codes: Readonly<Record<string, string>> = {
        python: 'import os; print(os.environ.get("V", "none"), os.environ.get("HOME"))',
        bash: ['echo $', '{V-none} $HOME'].join(''),
      };
      const code = codes[language] ?? 'console.log(Deno.env.get("V") ?? "none", Deno.env.get("HOME"))';
      const value = "é 'q'";
      const inner = await run(code, { language, env_vars: { V: value, HOME: '/h' } });
      expect(output(inner)).toBe(`${value} /h\n`);
      expect(output(await run(code, { language }))).toBe(`none ${interpreter.home}\n`);
    },
  );

  it('JavaScript and TypeScript: values, output, errors, top-level await', async () => {
    const language = 'ts';
    const code = 'const a: number = await Promise.resolve(3)\nconsole.log("é")\na + 1';
    const answer = await run(code, { language });
    expect(output(answer)).toBe('é\n');
    expect(results(answer)).toEqual([{ type: 'result', is_main_result: true, text: '4', extra: {} }]);
    const failed = await run('throw new TypeError("no")', { language: 'js' });
    expect(failed.lines).toContainEqual(expect.objectContaining({ type: 'error', value: 'no' }));
  });

  it('contexts have variables and a directory of their own, restart clears, remove removes', async () => {
    const created = await interpreter.send('POST', '/contexts', { language: 'python', cwd: 'sub' });
    const { id, ...more } = JSON.parse(created.text);
    expect(more).toEqual({ language: 'python', cwd: `${interpreter.home}/sub` });
    await run('shared = 1');
    const of = { context_id: id };
    expect(await textOf('"shared" in dir()', of)).toBe('False');
    expect(output(await run('import os; print(os.getcwd()); kept = 1', of))).toBe(`${more.cwd}\n`);
    const list = JSON.parse((await interpreter.send('GET', '/contexts')).text);
    expect(list[0]).toMatchObject({ language: 'python', cwd: interpreter.home });
    expect(list[1]).toMatchObject({ language: 'javascript' });
    expect(list.at(-1)).toEqual({ id, ...more });
    expect((await interpreter.send('POST', `/contexts/${id}/restart`)).status).toBe(204);
    expect(await textOf('"kept" in dir()', of)).toBe('False');
    expect((await interpreter.send('DELETE', `/contexts/${id}`)).status).toBe(204);
    expect(await interpreter.execute({ code: '1', ...of })).toMatchObject({
      status: 404,
      text: `Context ${id} not found`,
    });
  });

  it('a restart under way does not keep a removed context alive: what waits for it ends', async () => {
    const created = await interpreter.send('POST', '/contexts', { language: 'python' });
    const of = { context_id: String(JSON.parse(created.text).id) };
    const endless = (file: string) => `open('${file}', 'w').close()\nwhile True: pass`;
    const first = interpreter.execute({ code: endless('began'), ...of });
    await expect.poll(() => existsSync(join(interpreter.home, 'began'))).toBe(true);
    const restarted = interpreter.send('POST', `/contexts/${of.context_id}/restart`);
    const second = interpreter.execute({ code: endless('again'), ...of });
    const removed = interpreter.send('DELETE', `/contexts/${of.context_id}`);
    expect((await removed).status).toBe(204);
    expect([(await restarted).status, (await second).status]).toEqual([404, 404]);
    expect((await first).status).toBe(200);
  });

  it.each([
    [{ code: '1', context_id: 'a', language: 'python' }, 400, 'exclude each other'],
    [{ code: '1', language: 'r' }, 400, 'has bash, javascript, python, typescript'],
    [{ code: '1', context_id: 'none' }, 404, 'Context none not found'],
    [{ code: '1', env_vars: { 'A B': '1' } }, 400, 'invalid variable name'],
    [{ code: '1', env_vars: { A: 1 } }, 400, 'not text'],
    [{ code: 1 }, 400, 'code is not a str'],
    [{}, 400, 'code is missing'],
    [[], 400, 'not a JSON object'],
  ])('refuses %j in plain text', async (body, status, text) => {
    const answer = await interpreter.send('POST', '/execute', body);
    expect(answer).toMatchObject({ status, text: expect.stringContaining(text) });
  });

  it('a context in a directory that is missing is refused', async () => {
    const answer = await interpreter.send('POST', '/contexts', { cwd: '/none' });
    expect(answer).toMatchObject({ status: 400, text: "cwd '/none' does not exist" });
  });

  it('executions of a context take turns', async () => {
    const code = 'import time\nbegin = time.time(); time.sleep(0.2); print(begin, time.time())';
    const answers = await Promise.all([run(code), run(code), run(code)]);
    const spans = answers.map((one) => output(one).split(' ').map(Number)).sort();
    for (const [index, [begin = 0]] of spans.slice(1).entries()) {
      expect(begin).toBeGreaterThanOrEqual(spans[index]?.[1] ?? Infinity);
    }
  });

  it.each([
    ['python', 'import time\nwhile True: time.sleep(0.05)', 'kept = 1', 'kept'],
    ['javascript', 'while (true) {}', '0', '1'],
    ['bash', 'sleep 1000', 'true', 'echo 1'],
  ])('%s: the end of the connection interrupts', async (language, endless, before, after) => {
    await run(before, { language });
    const stop = new AbortController();
    const response = await fetch(`${interpreter.url}/execute`, {
      method: 'POST',
      body: JSON.stringify({ code: endless, language }),
      signal: stop.signal,
    });
    await response.body?.getReader().read();
    stop.abort();
    const next = await run(after, { language });
    expect(results(next)[0]?.['text'] ?? output(next).trim()).toBe('1');
  });

  it('a kernel that ends is an error, and the next execution has another one', async () => {
    const { lines } = await run('import os; os._exit(1)');
    expect(lines.at(-2)).toMatchObject({ type: 'error', name: 'KernelRestarted' });
    expect(lines.at(-1)).toEqual({ type: 'end_of_execution' });
    expect(await textOf('1')).toBe('1');
  });

  it('a clone has its own variables and randomness, in kernels that are older', async () => {
    const code =
      'import os, random, numpy\nprint(os.environ.get("NAME"), os.environ.get("OLD"), random.random(), numpy.random.rand())';
    const seeds = 'import random, numpy; random.seed(1); numpy.random.seed(1)';
    const draws: string[] = [];
    for (const [id, env] of [
      ['one', { NAME: 'a', OLD: 'x' }],
      ['two', { NAME: 'b' }],
    ] as const) {
      await run(seeds);
      interpreter.become(id, env);
      const [name, old, ...numbers] = output(await run(code))
        .trim()
        .split(' ');
      expect([name, old]).toEqual(id === 'one' ? ['a', 'x'] : ['b', 'None']);
      draws.push(...numbers);
      for (const language of ['js', 'bash']) {
        const show = language === 'js' ? 'console.log(Deno.env.get("NAME"))' : 'echo $NAME';
        expect(output(await run(show, { language })).trim()).toBe(name);
      }
    }
    expect(new Set(draws).size).toBe(4);
    const { id } = JSON.parse((await interpreter.send('POST', '/contexts', {})).text);
    expect(output(await run(code, { context_id: id }))).toMatch(/^b None /);
  });
});
