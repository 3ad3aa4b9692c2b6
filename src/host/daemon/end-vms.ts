/** Program of the launcher: ends the VMs of its daemons that were killed, when it starts no other one. */
import { readConfig } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import { silentLog } from '../../base/log.ts';
import { KeptVms, keeperOf, readKept } from '../runtime/kept-vms.ts';

const keeper = await keeperOf(process.env);
if (keeper !== null) {
  const { runDir } = resolveHome(readConfig(process.env).home);
  const kept = await KeptVms.open(keeper, runDir, await readKept(runDir), silentLog);
  await kept.close();
}
