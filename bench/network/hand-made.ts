/** The baseline of a sandbox's network: the same, made with the usual commands. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const TAP = 'bench0';

/** One TAP with an address, and its rules in a shared table. */
export class HandMadeNetwork {
  readonly #rulesPath: string;

  constructor(rulesPath: string) {
    this.#rulesPath = rulesPath;
  }

  async prepare(): Promise<void> {
    await run('nft', ['add table inet bench { map taps { type ifname : verdict; }; }']);
    const chain = 'type filter hook forward priority 0; policy accept;';
    await run('nft', [`add chain inet bench forward { ${chain} }`]);
    await run('nft', ['add rule inet bench forward iifname vmap @taps']);
  }

  async make(): Promise<void> {
    await run('ip', ['tuntap', 'add', 'dev', TAP, 'mode', 'tap']);
    await run('ip', ['address', 'add', '192.168.99.1/30', 'dev', TAP]);
    await run('ip', ['link', 'set', TAP, 'up']);
    const rules = [
      `add chain inet bench ${TAP}`,
      `add rule inet bench ${TAP} ip saddr != 192.168.99.2 drop`,
      `add rule inet bench ${TAP} ip daddr 169.254.0.0/16 drop`,
      `add rule inet bench ${TAP} ip daddr 198.51.100.0/24 tcp dport 443 accept`,
      `add rule inet bench ${TAP} counter drop`,
      `add element inet bench taps { "${TAP}" : jump ${TAP} }`,
    ];
    await writeFile(this.#rulesPath, `${rules.join('\n')}\n`);
    await run('nft', ['-f', this.#rulesPath]);
  }

  async remove(): Promise<void> {
    const rules = [
      `delete element inet bench taps { "${TAP}" : jump ${TAP} }`,
      `flush chain inet bench ${TAP}`,
      `delete chain inet bench ${TAP}`,
    ];
    await writeFile(this.#rulesPath, `${rules.join('\n')}\n`);
    await run('nft', ['-f', this.#rulesPath]);
    await run('ip', ['link', 'delete', TAP]);
  }

  async end(): Promise<void> {
    await run('nft', ['delete table inet bench']);
  }
}
