import { expect, it } from 'vitest';
import { SecretLog } from './log.ts';

it('SecretLog: logs the first use of a secret, however many hosts a guest names', () => {
  const lines: string[] = [];
  const line = (level: string) => (text: string) => void lines.push(`${level} ${text}`);
  const log = new SecretLog({
    debug: () => undefined,
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
  } as never);
  const use = { sandboxId: 'sb-1', names: ['API_KEY'] };
  for (let at = 0; at < 1000; at += 1) log.note({ ...use, kind: 'unfilled', host: `h${at}.x` });
  expect(lines).toHaveLength(256);
  for (const _ of [1, 2]) log.note({ ...use, kind: 'filled', host: 'a.example' });
  for (const _ of [1, 2]) log.note({ ...use, kind: 'unplaced', host: 'a.example', why: 'in X' });
  for (const _ of [1, 2]) log.note({ ...use, kind: 'without_cookies', host: 'a.example' });
  expect(lines.slice(256)).toEqual([
    'info secret API_KEY was sent to a.example',
    'warn a request to a.example with the placeholder of API_KEY was refused',
    'info a request with secret API_KEY was sent to a.example without its cookies',
  ]);
  lines.length = 0;
  const field = { sandboxId: 'sb-1', names: ['X-Field'] };
  for (let at = 0; at < 5000; at += 1) log.note({ ...field, kind: 'filled', host: `h${at}.x` });
  expect(lines).toHaveLength(1023);
});
