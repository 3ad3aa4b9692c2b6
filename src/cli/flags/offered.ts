/** Checks that a named model exists. Apart from `model-choice.ts`, which loads the runtime. */
import { RuntimeError } from '../../host/runtime/errors.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';

/** Checks the model of a new sandbox in the daemon. @throws RuntimeError `model_unknown` */
export async function checkModelThere(control: Pick<ControlPlane, 'host'>, model: string | undefined): Promise<void> {
  if (model === undefined) return;
  const { upstream, models } = await control.host();
  if (models !== null) requireModel(model, { description: upstream, offered: models });
}

/** @throws RuntimeError `model_unknown` */
export function requireModel(
  model: string,
  server: { readonly description: string; readonly offered: readonly string[] },
  more = '',
): void {
  const { description, offered } = server;
  if (offered.includes(model)) return;
  throw new RuntimeError('model_unknown', `${description} has no model "${model}"`, {
    remedy: `use one of: ${offered.join(', ')}${more}`,
  });
}
