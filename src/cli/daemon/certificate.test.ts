import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeAuthority } from '../../../test/support/certificate-authority.ts';
import { eventually } from '../../../test/support/eventually.ts';
import type { Certificate } from '../../api/rest/listener.ts';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { followCertificate, RENEWAL_MS, readCertificate } from './certificate.ts';

const authority = await makeAuthority();
let dir: string;
let files: { certPath: string; keyPath: string };
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-certificate-'));
  files = { certPath: join(dir, 'cert.pem'), keyPath: join(dir, 'key.pem') };
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const issue = () => authority.issue(['box.example.org']);
const place = ({ cert, key }: Certificate): void => {
  writeFileSync(files.certPath, cert);
  writeFileSync(files.keyPath, key);
};

it('followCertificate: uses a certificate that was renewed while the daemon started', async () => {
  place(await issue());
  const used = await readCertificate(files);
  const renewed = await issue();
  place(renewed);
  const uses: Certificate[] = [];
  const parts = { clock: new FakeClock(), log: silentLog };
  const stop = followCertificate(files, used, parts, (one) => uses.push(one));
  await eventually(() => expect(uses).toEqual([renewed]));
  stop();
});

it('followCertificate: keeps the old one while certificate and key do not belong together', async () => {
  const first = await issue();
  const second = await issue();
  place(first);
  const clock = new FakeClock();
  const warnings: string[] = [];
  const log: Log = { ...silentLog, warn: (text) => warnings.push(text) };
  const uses: Certificate[] = [];
  writeFileSync(files.certPath, second.cert);
  const stop = followCertificate(files, first, { clock, log }, (one) => uses.push(one));
  await eventually(() => expect(warnings).toHaveLength(1));
  expect(uses).toEqual([]);
  writeFileSync(files.keyPath, second.key);
  // The next look is set after the warning.
  await eventually(() => {
    clock.advance(RENEWAL_MS);
    expect(uses).toEqual([second]);
  });
  stop();
});
