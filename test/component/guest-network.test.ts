/** The agent's network settings, on a real card in its own namespace. Needs root. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { requiresRoot } from '../support/requires.ts';

const AGENT = join(import.meta.dirname, '../../guest/agent');
const OWN_MAC = 'aa:fc:00:00:00:07';
const [FIRST, SECOND] = [
  { mac: OWN_MAC, address: '10.201.0.2', gateway: '10.201.0.1' },
  { mac: 'aa:fc:00:00:00:08', address: '10.201.0.6', gateway: '10.201.0.5' },
];
/** Mounts of the namespace: a fresh /sys, and a private /run. */
const ENTER = `mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mkdir /run/neurovisor /run/cards && exec "$@"`;
/** Creates cards (`br…` has no device), applies one network after the other, and prints the state after each. */
const SCRIPT = `
import json, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from neurovisor_agent import network as module
from neurovisor_agent.network import Network, NetworkSettings
module._CARDS = "/run/cards"
cards, networks = json.loads(sys.argv[2])
ip = lambda *args: subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout
for name, mac in cards.items():
    ip("tuntap", "add", name, "mode", "tap")
    ip("link", "set", name, "address", mac)
    os.makedirs(f"/run/cards/{name}")
    os.symlink(f"/sys/class/net/{name}/address", f"/run/cards/{name}/address")
    if not name.startswith("br"):
        open(f"/run/cards/{name}/device", "w").close()
class Loop:
    def after(self, seconds, run):
        told.append("waits")
        class Timer:
            def cancel(self): pass
        return Timer()
network, seen = Network(Loop()), []
for fields in networks:
    told = []
    wanted = fields and NetworkSettings({"prefixLength": 30, "gatewayMac": "aa:fd:00:00:00:01", "mtu": 1400, **fields})
    network.apply(wanted, told.append)
    seen.append({
        "told": told,
        "links": {each["ifname"]: each.get("address") for each in json.loads(ip("-j", "link"))},
        "addresses": [
            f'{one["local"]}/{one["prefixlen"]} {each["ifname"]} {each["mtu"]}'
            for each in json.loads(ip("-j", "-4", "addr")) for one in each.get("addr_info", [])
        ],
        "routes": [f'{each["dst"]} {each.get("gateway", "-")}' for each in json.loads(ip("-j", "-4", "route") or "[]")],
        "neighbours": [f'{each["dst"]} {each["lladdr"]}' for each in json.loads(ip("-j", "neigh", "show", "nud", "permanent") or "[]")],
    })
print(json.dumps(seen))
`;

interface Seen {
  readonly told: readonly (string | null)[];
  readonly links: Readonly<Record<string, string>>;
  readonly addresses: readonly string[];
  readonly routes: readonly string[];
  readonly neighbours: readonly string[];
}

function apply(cards: Record<string, string>, networks: readonly (object | null)[]): Seen[] {
  const unshared = ['--net', '--mount', 'sh', '-c', ENTER, 'sh'];
  const run = ['python3', '-c', SCRIPT, AGENT, JSON.stringify([cards, networks])];
  return JSON.parse(execFileSync('unshare', [...unshared, ...run], { encoding: 'utf8' })) as Seen[];
}

const configured = ({ mac, address, gateway }: typeof FIRST, name = 'eth0') => ({
  told: [null],
  links: { [name]: mac },
  addresses: [`${address}/30 ${name} 1400`],
  routes: [`default ${gateway}`, expect.stringMatching(/^10\.201\.0\.\d+\/30 -$/)],
  neighbours: [`${gateway} aa:fd:00:00:00:01`],
});

requiresRoot().describe('Network of the agent', () => {
  it('apply: the card with the MAC gets address, route and neighbor; a second time changes nothing', () => {
    const seen = apply({ eth0: OWN_MAC, eth1: 'aa:fc:00:00:00:09' }, [FIRST, FIRST]);
    for (const each of seen) expect(each).toMatchObject({ ...configured(FIRST), links: {} });
  });

  it('apply: another address replaces the old one with its route and neighbor', () => {
    const moved = { ...SECOND, mac: OWN_MAC };
    const seen = apply({ eth0: OWN_MAC }, [FIRST, moved]);
    expect(seen).toMatchObject([configured(FIRST), configured(moved)]);
  });

  it('apply: the only card gets the wanted MAC', () => {
    const seen = apply({ eth0: OWN_MAC, br0: 'aa:fc:00:00:00:09' }, [FIRST, SECOND]);
    expect(seen).toMatchObject([configured(FIRST), configured(SECOND)]);
  });

  it('apply: waits if there is no card, only virtual ones, or several others', () => {
    const several = { eth0: OWN_MAC, eth1: 'aa:fc:00:00:00:09' };
    for (const cards of [several, { br0: OWN_MAC }, {}]) {
      const [seen] = apply(cards, [SECOND]);
      expect(seen).toMatchObject({ told: ['waits'], addresses: [], routes: [] });
      expect(Object.values(seen?.links ?? {})).not.toContain(SECOND.mac);
    }
  });

  it('apply: without a network everything is removed', () => {
    const [, seen] = apply({ eth0: OWN_MAC }, [FIRST, null]);
    expect(seen).toMatchObject({ told: [null], routes: [], neighbours: [] });
  });
});
