/** What a sandbox may connect to, and the secrets that it uses there, as requested. */
import { z } from 'zod';
import { EGRESS_LIMITS } from '../../../base/request/egress-limits.ts';
import { PLACE_NAME_CHARACTERS_MAX, type SecretPlace } from '../../../base/request/secret-place.ts';
import type { DestinationLimit } from '../../../egress/net/policy/destination-budgets.ts';
import { RANGES, REQUEST_LIMITS } from '../limits.ts';
import { list, type ReadOnly, storedSecret, text, whole } from './values.ts';

export const networkMode = z
  .enum(['none', 'allowlist', 'open'])
  .meta({
    id: 'NetworkMode',
    description:
      '`none`: no traffic. `allowlist`: what a rule allows. `open`: the public internet except what a rule denies.',
  });
const destinationLimit = z
  .strictObject({
    name: z
      .string()
      .min(1)
      .max(REQUEST_LIMITS.destinationCharactersMax)
      .describe('`api.example.com`, or `*.example.com` for all names below it.'),
    bytesMax: whole(RANGES.networkBytes),
  } satisfies Record<keyof DestinationLimit, z.ZodType>)
  .meta({ id: 'DestinationLimit' });
const bytesPerSecond = whole(RANGES.networkBytesPerSecond);
export const networkLimits = z
  .strictObject({
    bytesMax: whole(RANGES.networkBytes)
      .exactOptional()
      .describe('Bytes in both directions over the life of the sandbox. Then connections are reset.'),
    uploadBytesPerSecond: bytesPerSecond.exactOptional().describe('Rate from the guest.'),
    downloadBytesPerSecond: bytesPerSecond.exactOptional().describe('Rate to the guest.'),
    connectionsMax: whole(RANGES.networkConnections)
      .exactOptional()
      .describe('Open connections at a time. Default 2048.'),
    destinations: list(destinationLimit, REQUEST_LIMITS.networkDestinationsMax)
      .exactOptional()
      .describe('Bytes per name at ports 80 and 443, both directions. Then connections are reset.'),
  })
  .meta({ id: 'NetworkLimits' });
/** Limits of IPv4 packets between guest and host, headers included. */
export type NetworkLimits = ReadOnly<z.infer<typeof networkLimits>>;

const rules = list(text(EGRESS_LIMITS.ruleCharactersMax), EGRESS_LIMITS.rulesMax).describe(
  'An address, a block, a name or `*.name`, optionally with `:port` or `:first-last` and `/tcp` or `/udp`. ' +
    '`allow` also takes methods and a URL: `GET,HEAD https://api.example.com/v1/` allows these requests to ' +
    'all paths below it.',
);
export const networkOptions = z
  .strictObject({
    mode: networkMode,
    allow: rules.optional(),
    deny: rules.optional(),
    limits: networkLimits.optional().describe('Replaces all limits. If omitted: none; in an update, unchanged.'),
  })
  .meta({ id: 'NetworkOptions' });
/** A network as it is requested: rules as people write them (`docs/network.md`). */
export type NetworkOptions = ReadOnly<z.infer<typeof networkOptions>>;

export const secretPlace = z
  .strictObject({
    in: z.enum(['header', 'query']),
    name: text(PLACE_NAME_CHARACTERS_MAX).describe('A header field, in any case, or a query parameter.'),
  } satisfies Record<keyof SecretPlace, z.ZodType>)
  .meta({ id: 'SecretPlace' });
const hosts = list(text(320), REQUEST_LIMITS.secretHostsMax);
const secret = z
  .strictObject({
    name: text(128).describe('Variable in the guest that holds the placeholder.'),
    hosts: hosts.describe('The only hosts that get the value, by HTTPS at port 443.'),
    places: list(secretPlace, REQUEST_LIMITS.secretPlacesMax)
      .optional()
      .describe(
        'Where requests may have the value. If omitted or empty: in the usual credential fields, such as Authorization and X-Api-Key.',
      ),
    value: text(RANGES.secretCharacters.max)
      .optional()
      .describe('Visible ASCII. Kept in memory only and never returned. Omit it for a stored secret.'),
    stored: storedSecret.optional().describe('Name of the stored secret whose current value requests get.'),
  })
  .meta({ id: 'Secret' });
export const secrets = list(secret, REQUEST_LIMITS.secretsMax);
export type SecretOptions = ReadOnly<z.infer<typeof secret>>;

const requestHeader = z
  .strictObject({
    name: text(PLACE_NAME_CHARACTERS_MAX).describe('Header field.'),
    hosts: hosts.describe(
      'Host names, or `*.name` for all names below it, by HTTPS at port 443; their fields are not merged. This does not allow them.',
    ),
    value: z
      .string()
      .max(RANGES.requestHeaderCharacters.max, {
        error: `expected at most ${RANGES.requestHeaderCharacters.max} characters`,
      })
      .describe('Printable ASCII. Kept in memory only and never returned.'),
  })
  .meta({ id: 'RequestHeader' });
export const requestHeaders = list(requestHeader, REQUEST_LIMITS.requestHeadersMax);
/** A header field that the gateway sets in each HTTPS request to its hosts, overwriting the guest's. */
export type RequestHeaderOptions = ReadOnly<z.infer<typeof requestHeader>>;
