// Package brokers holds facts about brokers that Prism's contracts stand on:
// each test asks a real one and counts.
package brokers
