package main

import (
	"testing"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestMain(m *testing.M) { devpg.Main(m) }
