/** Replaces the egress settings of a running sandbox. */
import { isDeepStrictEqual } from 'node:util';
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import { formatKept, keptOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';
import { type Creations, keptNetwork } from './creations.ts';
import { hasRules, networkOptions } from './network.ts';
import { present } from './present.ts';
import { isWithoutValues, requestHeadersOf } from './rules.ts';
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
          'Replaces allowOut, denyOut, rules and internet access; what is omitted is cleared. The settings of its ports stay. A paused sandbox takes only rules whose values are lost, with the same lists.',
        params: idParams,
        body: networkBody,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const info = await present(parts, params.sandboxID);
      const { allow_internet_access: internet, ...lists } = body;
      const network = networkOptions(lists, internet !== false);
      const requestHeaders = requestHeadersOf(lists.rules);
      const before = keptOf(info);
      const { allowOut, denyOut, ...ports } = before.network ?? {};
      if (info.status === 'paused') {
        const asked = [lists.allowOut ?? null, lists.denyOut ?? null, internet ?? null];
        const known = [allowOut ?? null, denyOut ?? null, before.allowInternetAccess];
        const isSame = isDeepStrictEqual(asked, known);
        if (!isWithoutValues(info) || !isSame) throw paused(info.id);
        await control.update(info.id, { requestHeaders });
        return await reply.status(204).send(null);
      }
      const hadHeaders = info.secrets.some(({ sets }) => sets !== undefined);
      const isDefault = !hasRules(lists);
      await creations.orClosed(isDefault, network !== null, (isClosed) =>
        control.update(info.id, {
          network: isClosed ? null : network,
          // Each change asks the guest to trust the sandbox's certificate authority.
          ...(hadHeaders || requestHeaders.length > 0 ? { requestHeaders } : {}),
          // An update replaces all annotations, so it must include those of other parts.
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

function paused(id: string): E2bError {
  return new E2bError(409, `sandbox ${id} is paused`, { remedy: 'connect to it, which resumes it' });
}
