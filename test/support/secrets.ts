/** Secrets for tests of the gateway. */
import { SecretValue } from '../../src/base/request/secret-value.ts';
import type { EgressSecret } from '../../src/egress/net/secret/secret.ts';

export const TOKEN = 'sk-live/0123+456789=abcdef"XYZ';
export const PLACEHOLDER = 'NV_SECRET_abcdefghijklmnopqrst';
export const OTHER_TOKEN = 'other-token-0123456789';
export const OTHER_PLACEHOLDER = 'NV_SECRET_other1234567';

export const SECRETS: readonly EgressSecret[] = [
  { name: 'API_KEY', hosts: ['a.example'], places: [], placeholder: PLACEHOLDER, value: new SecretValue(TOKEN) },
  {
    name: 'OTHER_KEY',
    hosts: ['b.example'],
    places: [],
    placeholder: OTHER_PLACEHOLDER,
    value: new SecretValue(OTHER_TOKEN),
  },
];
