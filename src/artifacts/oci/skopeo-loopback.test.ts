import { expect, it } from 'vitest';
import { withPlainHttp } from './skopeo.ts';

it.each([
  ['inspect --raw docker://localhost:5000/a:1', 'inspect --tls-verify=false --raw docker://localhost:5000/a:1'],
  ['inspect --raw docker://registry.invalid/a:1', 'inspect --raw docker://registry.invalid/a:1'],
  [
    '--tmpdir=x copy docker://127.0.0.1:5000/a:1 dir:x',
    '--tmpdir=x copy --src-tls-verify=false docker://127.0.0.1:5000/a:1 dir:x',
  ],
  [
    'copy --quiet oci:x:1 docker://[::1]:5000/a:1',
    'copy --dest-tls-verify=false --quiet oci:x:1 docker://[::1]:5000/a:1',
  ],
  ['copy docker://127.0.0.1.registry.invalid/a dir:x', 'copy docker://127.0.0.1.registry.invalid/a dir:x'],
  ['copy docker://localhost/a dir:x', 'copy --src-tls-verify=false docker://localhost/a dir:x'],
  ['copy docker://localhostile/a dir:x', 'copy docker://localhostile/a dir:x'],
])('withPlainHttp: %s', (args, expected) => expect(withPlainHttp(args.split(' ')).join(' ')).toBe(expected));
