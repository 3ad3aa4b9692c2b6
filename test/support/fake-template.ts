/** Templates of the fake host: of an image, and with a name. */
import { checkNamedRequest, withTemplate } from '../../src/runtime/named-templates/request.ts';
import type { EnvironmentSource } from '../../src/sandbox/environment.ts';
import type { ControlParts } from '../../src/sandbox/plane/control-plane.ts';
import type { OpenTemplate } from '../../src/sandbox/start/pools.ts';
import { linkOrCopy } from '../../src/sys/link-or-copy.ts';

export function withImage(
  template: OpenTemplate,
  { environment, path }: EnvironmentSource,
): OpenTemplate {
  return {
    ...template,
    key: `${template.key} ${environment.digest}`,
    spec: { ...template.spec, environment },
    source: { ...template.source, linkEnvironment: (to) => linkOrCopy(path, to) },
  };
}

/** Every name is that of the one template. */
export function fromNamed(template: OpenTemplate): ControlParts['fromNamedTemplate'] {
  return async (name, request) => {
    checkNamedRequest(request);
    const named = { name, spec: template.spec };
    return { request: withTemplate(named, request), named };
  };
}
