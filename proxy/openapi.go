package proxy

import _ "embed" // for openapi.json

// openAPI describes the HTTP data plane; a test holds it against the routes.
//
//go:embed openapi.json
var openAPI []byte
