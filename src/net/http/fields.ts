/** Fields of a request by which servers take it for another one than its line says. Pure; by name alone. */

/**
 * Method (Rack, Rails, Laravel, ASP.NET, Google's APIs), path (IIS, Symfony, Envoy, Next.js), host and prefix (who stands
 * behind a proxy), and what is copied, moved or renamed from or to elsewhere (WebDAV, object stores).
 */
const OVERRIDES = [
  /^(?:x-(?:http-)?method(?:-override)?|(?:http-)?method-override)$/i,
  /^x-(?:original|rewrite|override|proxy|invoke|matched|envoy-original(?:-dst)?)-(?:url|uri|path|host|method)$/i,
  /^x-forwarded-(?:host|method|path|prefix|uri|server)$/i,
  /^x-(?:host|script-name|path-info|request-uri|waf-url|http-host-override)$/i,
  /^(?:forwarded|destination|destination-account|request-uri)$/i,
  // `x-amz-copy-source`, `x-ms-file-rename-source`, `x-upyun-move-source`; of Swift `x-copy-from`, and what joins objects.
  /^x-(?:[a-z]+-)*(?:copy|move|rename)-(?:source|from)(?:-|$)/i,
  /^x-object-manifest$/i,
] as const;

/** Signs that gateways of CGI and WSGI make one of (RFC 3875 section 4.1.18 knows `-` only) are one here, too. */
export function plainFieldName(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9]/g, '-');
}

export function isOverride(name: string): boolean {
  const plain = plainFieldName(name);
  return OVERRIDES.some((pattern) => pattern.test(plain));
}
