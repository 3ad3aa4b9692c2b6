/** Replaces the egress settings of a running sandbox. */
import type { App } from '../../api/route.ts';
import { E2bError } from '../errors.ts';
import { formatKept, keptOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';
import { type Creations, keptNetwork } from './creations.ts';
import { hasRules, networkOptions } from './network.ts';
import { present } from './present.ts';
import { failures, idParams, networkBody, nothing } from './schema.ts';

export function addNetworkRoute(app: App, parts: E2bParts, creations: Creations): void {
  const { control } = parts;
  app.put(
    '/sandboxes/:sandboxID/network',
    {
      schema: {
        tags: ['sandboxes'],
        operationId: 'updateSandboxNetwork',
        description:
          'Replaces allowOut, denyOut and internet access; what is omitted is cleared. The settings of its ports stay.',
        params: idParams,
        body: networkBody,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const info = await present(parts, params.sandboxID);
      if (info.status === 'paused') {
        throw new E2bError(409, `sandbox ${info.id} is paused`, {
          remedy: 'connect to it, which resumes it',
        });
      }
      const { allow_internet_access: internet, ...lists } = body;
      const network = networkOptions(lists, internet !== false);
      const before = keptOf(info);
      const { allowOut: _allow, denyOut: _deny, ...ports } = before.network ?? {};
      const isDefault = !hasRules(lists);
      await creations.orClosed(isDefault, network !== null, (isClosed) =>
        control.update(info.id, {
          network: isClosed ? null : network,
          // An update replaces all of them, also those of others.
          annotations: {
            ...info.annotations,
            ...formatKept({
              ...before,
              allowInternetAccess: isClosed ? false : (internet ?? null),
              network: { ...ports, ...keptNetwork(lists) },
            }),
          },
        }),
      );
      return await reply.status(204).send(null);
    },
  );
}
