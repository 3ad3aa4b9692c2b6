/** A process that holds secrets leaves none of them in a core dump. */
import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';

it('writeNoCore: a crash leaves no core dump, and child processes have the limit, too', () => {
  const module = new URL('../../src/sys/core-dump.ts', import.meta.url).href;
  const koffi = import.meta.resolve('koffi');
  const code = `
    import { execFileSync } from 'node:child_process';
    import { readFileSync } from 'node:fs';
    import koffi from '${koffi}';
    import { writeNoCore } from '${module}';
    writeNoCore();
    writeNoCore();
    const limit = (text) => /^Max core file size +(\\S+) +(\\S+)/m.exec(text).slice(1);
    console.log(JSON.stringify({
      own: limit(readFileSync('/proc/self/limits', 'utf8')),
      child: limit(execFileSync('cat', ['/proc/self/limits'], { encoding: 'utf8' })),
      isDumpable: koffi.load('libc.so.6').func('int prctl(int option)')(3),
    }));`;
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', code]);
  expect(JSON.parse(`${out}`)).toEqual({ own: ['0', '0'], child: ['0', '0'], isDumpable: 0 });
});
