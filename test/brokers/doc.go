// Package brokers holds what brokers do, as experiments on the real ones: the
// facts that Prism's contracts of topics, groups and deliveries stand on. A
// test here fails when a broker, or its client library, no longer does what the
// tables of README.md say; the contract has to be read again then. Nothing of
// Prism is tested here.
package brokers
