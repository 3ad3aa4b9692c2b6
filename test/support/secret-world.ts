/** A gateway with secrets on loopback, and curl behind it, which trusts the sandbox's authority. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { systemClock } from '../../src/base/clock.ts';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import type { SecretUse } from '../../src/egress/net/secret/connection.ts';
import type { EgressSecret, EgressSecrets } from '../../src/egress/net/secret/secret.ts';
import { undo, world } from './gateway-servers.ts';
import { command, HOST, type WorldOptions } from './gateway-world.ts';

/** @param roots the certificate that servers are verified against */
export async function secretGateway(secrets: readonly EgressSecret[], roots: string, options: WorldOptions = {}) {
  const authority = new CertificateAuthority(systemClock);
  const state: { secrets: EgressSecrets } = {
    secrets: { secrets, authority, roots: () => createSecureContext({ ca: roots }) },
  };
  const uses: SecretUse[] = [];
  const made = await world(443, { secrets: () => state.secrets, onSecrets: (use) => uses.push(use), ...options });
  const folder = mkdtempSync(join(tmpdir(), 'nv-root-'));
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const rootFile = join(folder, 'root.pem');
  writeFileSync(rootFile, await authority.certificate());
  const client = (url: string, ...args: string[]) => {
    const to = `${new URL(url).hostname}:443:${HOST}:${made.port}`;
    const common = ['-sS', '--noproxy', '*', '--connect-to', to, '--cacert', rootFile];
    return command('curl', [...common, ...args, url]);
  };
  return { made, uses, client, rootFile, state };
}
